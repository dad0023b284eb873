/* A table of word vectors in strips: strip b holds its columns of the last rows only, from row first[b] on, and first
 * never falls. Row r has the columns of all strips with first[b] <= r, hence of the first few. */
#include "dots.h"
#include "panels.h"

typedef struct {
  const float *const *strip; /* (rows - first[b], width[b]) each */
  const int32_t *width, *first;
  int32_t strips, rows, columns, unused;
} Table;

static const float *entry(const Table *t, int b, size_t row) {
  return t->strip[b] + (row - (size_t)t->first[b]) * (size_t)t->width[b];
}

/* How many strips reach up to this row. */
static int reaching(const Table *t, size_t row) {
  int b = 0;
  while (b < t->strips && (size_t)t->first[b] <= row) b++;
  return b;
}

/* out (n, columns): the asked rows, with zeros where they have ended. */
EXPORT void sparsernn_strips_lookup(const Table *t, const int64_t *asked, float *out, int n, int threads) {
  size_t columns = (size_t)t->columns;
  TOGETHER(threads, for (size_t i = (size_t)n * me / all; i < (size_t)n * (me + 1) / all; i++) {
    float *to = out + i * columns, *end = to + columns;
    for (int b = 0; b < t->strips && t->first[b] <= asked[i]; b++) {
      memcpy(to, entry(t, b, (size_t)asked[i]), (size_t)t->width[b] * sizeof(float));
      to += t->width[b];
    }
    memset(to, 0, (size_t)(end - to) * sizeof(float));
  })
}

/* Adds the gradient (n, columns) of a lookup to sums of the shapes of the strips; each of them belongs to one thread,
 * which goes through the gradient in order. */
EXPORT void sparsernn_strips_add(const Table *sums, const int64_t *asked, const float *gradient, int n, int threads) {
  TOGETHER(threads, {
    size_t column = 0;
    for (int b = 0; b < sums->strips; b++) {
      size_t width = (size_t)sums->width[b];
      for (int i = 0; i < n && (size_t)b % all == me; i++)
        if (asked[i] >= sums->first[b]) {
          float *restrict to = (float *)entry(sums, b, (size_t)asked[i]);
          const float *restrict from = gradient + (size_t)i * (size_t)sums->columns + column;
          for (size_t k = 0; k < width; k++) to[k] += from[k];
        }
      column += width;
    }
  })
}

/* ---- Scores: out (n, rows) = bias + x (n, columns) times every row ---- */

typedef struct {
  const Table *table;
  const float *x, *bias;
  float *out;
} Scores;

/* Products of `n` rows of x with four rows that `strips` strips reach; `n` is a constant after inlining. */
static inline __attribute__((always_inline)) void products(const int n, const Scores *s, const float *x, int strips,
                                                           const size_t row[GROUP], v4 *result) {
  vw sum[MOST][GROUP];
  memset(sum, 0, sizeof sum);
  memset(result, 0, sizeof(v4) * MOST);
  size_t columns = (size_t)s->table->columns;
  for (int b = 0; b < strips; b++) {
    size_t k = 0, width = (size_t)s->table->width[b];
    const float *w[GROUP];
    for (int g = 0; g < GROUP; g++) w[g] = entry(s->table, b, row[g]);
    for (; k + WIDTH <= width; k += WIDTH) {
      vw part[GROUP];
      UNROLLED for (int g = 0; g < GROUP; g++) part[g] = *(const vw *)(w[g] + k);
      UNROLLED for (int r = 0; r < n; r++) {
        vw own = *(const vw *)(x + (size_t)r * columns + k);
        UNROLLED for (int g = 0; g < GROUP; g++) sum[r][g] += part[g] * own;
      }
    }
    for (; k < width; k++)
      for (int r = 0; r < n; r++)
        for (int g = 0; g < GROUP; g++) result[r][g] += w[g][k] * x[(size_t)r * columns + k];
    x += width;
  }
  UNROLLED for (int r = 0; r < n; r++) result[r] += sum_four(sum[r]);
}

static void products_of(int n, const Scores *s, const float *x, int strips, const size_t row[GROUP], v4 *result) {
#define CASE(count) \
  case count: products(count, s, x, strips, row, result); break;
  switch (n) {
    CASE(1) CASE(2) CASE(3)
#if MOST == 6
    CASE(4) CASE(5) CASE(6)
#endif
  }
#undef CASE
}

/* The rows first <= r < last, which equally many strips reach, for from <= n < to; the table as it lies in memory. */
static void score_rows(const Scores *s, int strips, size_t first, size_t last, size_t from, size_t to) {
  size_t columns = (size_t)s->table->columns, rows = (size_t)s->table->rows;
  for (size_t g = first; g < last; g += GROUP) {
    size_t row[GROUP], valid = least(GROUP, last - g);
    for (size_t i = 0; i < GROUP; i++) row[i] = least(g + i, last - 1);
    for (size_t n = from; n < to; n += MOST) {
      v4 result[MOST];
      size_t some = least(MOST, to - n);
      products_of((int)some, s, s->x + n * columns, strips, row, result);
      for (size_t r = 0; r < some; r++)
        for (size_t i = 0; i < valid; i++) s->out[(n + r) * rows + g + i] = s->bias[g + i] + result[r][i];
    }
  }
}

#define FEW 24 /* rows of x that stay in the cache while the table passes */

static void score_few(const Scores *s, size_t n, size_t me, size_t all) {
  const Table *t = s->table;
  for (size_t from = 0; from < n; from += FEW)
    for (int b = 0; b < t->strips; b++) {
      size_t first = (size_t)t->first[b], last = (size_t)(b + 1 < t->strips ? t->first[b + 1] : t->rows);
      size_t groups = (last - first + GROUP - 1) / GROUP;
      score_rows(s, b + 1, first + groups * me / all * GROUP, least(first + groups * (me + 1) / all * GROUP, last), from,
                 least(from + FEW, n));
    }
}

/* 16 rows from `row` on as a panel, as long as the longest of them, which is the last. Returns its length. */
static size_t arrange(const Table *t, size_t row, float *panel) {
  size_t valid = least(TILE, (size_t)t->rows - row), column = 0;
  int strips = reaching(t, row + valid - 1);
  for (int b = 0; b < strips; b++) {
    size_t width = (size_t)t->width[b];
    for (size_t i = 0; i < TILE; i++) {
      const float *from = i < valid && row + i >= (size_t)t->first[b] ? entry(t, b, row + i) : NULL;
      for (size_t k = 0; k < width; k++) panel[(column + k) * TILE + i] = from ? from[k] : 0;
    }
    column += width;
  }
  return column;
}

#define MANY 48  /* rows of x that stay in the cache while the panels pass */
#define SHARE 8 /* neighbouring panels of one thread */

static void score_many(const Scores *s, float *panels, int32_t *lengths, size_t n, size_t me, size_t all) {
  size_t rows = (size_t)s->table->rows, columns = (size_t)s->table->columns, count = (rows + TILE - 1) / TILE;
  for (size_t from = 0; from < n; from += MANY)
    for (size_t p = 0; p < count; p++) {
      if (p / SHARE % all != me) continue;
      float *panel = panels + p * TILE * columns;
      if (!from) lengths[p] = (int32_t)arrange(s->table, p * TILE, panel);
      Rows some = {s->x + from * columns, s->bias + p * TILE, s->out + from * rows + p * TILE, least(MANY, n - from),
                   columns, 0, rows};
      through_panels(&some, panel, (size_t)lengths[p], 0, least(TILE, rows - p * TILE));
    }
}

/* panels: room for the rows, up to a multiple of 16, times columns, and lengths for one number per 16 rows; without them
 * the table is read as it lies. */
EXPORT void sparsernn_strips_scores(const Table *t, const float *x, const float *bias, float *out, float *panels,
                                    int32_t *lengths, int n, int threads) {
  Scores s = {t, x, bias, out};
  TOGETHER(threads, {
    if (panels)
      score_many(&s, panels, lengths, (size_t)n, me, all);
    else
      score_few(&s, (size_t)n, me, all);
  })
}
