/* Products of sparse weights against plain loops, for processors that are emulated: says what is wrong and returns 1. */
#include <stdio.h>
#include <stdlib.h>

#include "tiles.h"

#define TALL 16
#define STRIP 256

void sparsernn_blocks_forward(const Places *, const float *, const float *, float *, float *, int, int, int);
void sparsernn_blocks_back(const Places *, const float *, const float *, float *, float *, int, int, int);
void sparsernn_blocks_gradient(const Places *, const float *, const float *, float *, float *, int, int);
void sparsernn_blocks_take(const Places *, const float *, float *, int);
void sparsernn_blocks_put(const Places *, const float *, float *, int);
void sparsernn_singles_forward(const Places *, const float *, const float *, float *, float *, int, int, int);
void sparsernn_singles_gradient(const Places *, const float *, const float *, float *, float *, int, int);

static uint32_t state = 1;
static float uniform(void) { return (float)((state = state * 1664525u + 1013904223u) >> 8) / (1 << 23) - 1; }
static float *numbers(size_t n) {
  float *made = malloc((n + 16) * sizeof(float));
  for (size_t i = 0; i < n; i++) made[i] = uniform();
  return made;
}

static int compare(const char *what, int rows, int columns, int n, const float *got, const double *wanted, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (!(fabs(got[i] - wanted[i]) < 1e-4)) {
      printf("%s of %d x %d with %d rows: %g at %zu in place of %g\n", what, rows, columns, n, got[i], i, wanted[i]);
      return 1;
    }
  return 0;
}

/* a (n, inner) times the matrix w, whose entry (i, o) is at i * by + o * across, plus base. */
static double *product(const float *a, const float *base, const float *w, int n, int inner, int outer, int by,
                       int across) {
  double *made = malloc(((size_t)n * outer + 1) * sizeof(double));
  for (int k = 0; k < n; k++)
    for (int o = 0; o < outer; o++) {
      double sum = base[o];
      for (int i = 0; i < inner; i++) sum += (double)a[k * inner + i] * w[(size_t)i * by + (size_t)o * across];
      made[k * outer + o] = sum;
    }
  return made;
}

/* The row after a strip of `tall` rows from `first` on; strips begin anew in the middle. */
static int strip_end(int first, int rows, int tall) {
  int border = first < rows / 2 ? rows / 2 : rows;
  return first + tall < border ? first + tall : border;
}

/* The places of w (rows, columns), which is 0 where no weight exists; returns how many values there are. */
static size_t blocks_of(Places *s, const float *w) {
  int panels = 0;
  for (int r = 0; r < s->rows; r = strip_end(r, s->rows, TALL)) panels++;
  int32_t *start = malloc((panels + 1) * sizeof(int32_t)), *row = malloc((panels + 1) * sizeof(int32_t));
  uint16_t *index = calloc((size_t)panels * s->columns + 8, 2);
  int count = 0;
  row[0] = 0;
  for (int p = 0; p < panels; p++) {
    row[p + 1] = strip_end(row[p], s->rows, TALL);
    start[p] = count;
    for (int c = 0; c < s->columns; c++)
      if (w[(size_t)row[p] * s->columns + c] != 0) index[count++] = (uint16_t)c;
  }
  start[panels] = count;
  s->start = start, s->index = index, s->row = row, s->strips = 0, s->panels = panels;
  return (size_t)count * TALL;
}

static size_t singles_of(Places *s, const float *w, int by, int across, float *values) {
  s->strips = (s->columns + STRIP - 1) / STRIP;
  int32_t *start = malloc(((size_t)s->strips * s->rows + 1) * sizeof(int32_t));
  uint16_t *index = calloc((size_t)s->rows * s->columns + 8, 2);
  int count = 0, k = 0;
  for (int strip = 0; strip < s->strips; strip++)
    for (int r = 0; r < s->rows; r++) {
      start[k++] = count;
      for (int c = strip * STRIP; c < (strip + 1) * STRIP && c < s->columns; c++)
        if (w[(size_t)r * by + (size_t)c * across] != 0)
          index[count] = (uint16_t)c, values[count++] = w[(size_t)r * by + (size_t)c * across];
    }
  start[k] = count;
  s->start = start, s->index = index, s->values = values;
  return (size_t)count;
}

static int check(int rows, int columns, int n, float density, int tall) {
  size_t whole = (size_t)rows * columns;
  float *w = calloc(whole, sizeof(float)), *x = numbers((size_t)n * columns), *y = numbers((size_t)n * rows);
  float *bias = numbers(rows), *other = numbers(columns), *out = numbers((size_t)n * (rows + columns));
  float *room = numbers((size_t)(n + 16) * (rows + columns) + 32 * (rows + columns));
  float *values = calloc(whole + (size_t)TALL * columns + 16, sizeof(float)), *found = calloc(whole + (size_t)TALL * columns + 16, sizeof(float));
  for (int p = 0; p < rows; p = strip_end(p, rows, tall))
    for (int c = 0; c < columns; c++) /* the first rows are empty, the last full */
      if (strip_end(p, rows, tall) == rows || (p && uniform() < 2 * density - 1))
        for (int r = p; r < strip_end(p, rows, tall); r++) w[(size_t)r * columns + c] = uniform() + 2;
  double *forth = product(x, bias, w, n, columns, rows, 1, columns), *back = product(y, other, w, n, rows, columns, columns, 1);
  double *slope = calloc(whole + 1, sizeof(double));
  for (size_t i = 0; i < whole; i++)
    for (int k = 0; k < n && w[i] != 0; k++) slope[i] += (double)y[k * rows + i / columns] * x[k * columns + i % columns];
  Places s = {rows, columns, 0, 0, NULL, NULL, values, NULL}, turned = {columns, rows, 0, 0, NULL, NULL, NULL, NULL};
  int wrong = 0;
  if (tall == TALL) {
    blocks_of(&s, w);
    sparsernn_blocks_take(&s, w, values, 1);
    sparsernn_blocks_forward(&s, x, bias, out, room, n, 1, 1);
    wrong |= compare("blocks, forward", rows, columns, n, out, forth, (size_t)n * rows);
    sparsernn_blocks_back(&s, y, other, out, room, n, 1, 1);
    wrong |= compare("blocks, back", rows, columns, n, out, back, (size_t)n * columns);
    sparsernn_blocks_gradient(&s, x, y, found, room, n, 1);
    float *dense = numbers(whole);
    sparsernn_blocks_put(&s, found, dense, 1);
    wrong |= compare("blocks, gradient", rows, columns, n, dense, slope, whole);
  } else {
    float *across = calloc(whole + 16, sizeof(float));
    size_t count = singles_of(&s, w, columns, 1, values);
    singles_of(&turned, w, 1, columns, across);
    sparsernn_singles_forward(&s, x, bias, out, room, n, 1, 1);
    wrong |= compare("single weights, forward", rows, columns, n, out, forth, (size_t)n * rows);
    sparsernn_singles_forward(&turned, y, other, out, room, n, 1, 1);
    wrong |= compare("single weights, back", rows, columns, n, out, back, (size_t)n * columns);
    sparsernn_singles_gradient(&s, x, y, found, room, n, 1);
    double *wanted = malloc((count + 1) * sizeof(double));
    for (int strip = 0, k = 0, at = 0; strip < s.strips; strip++)
      for (int r = 0; r < rows; r++, k++)
        for (; at < s.start[k + 1]; at++) wanted[at] = slope[(size_t)r * columns + s.index[at]];
    wrong |= compare("single weights, gradient", rows, columns, n, found, wanted, count);
  }
  return wrong;
}

int main(void) {
  static const int shapes[][2] = {{16, 16}, {1, 1}, {45, 33}, {130, 99}, {20, 530}, {96, 40}}, batches[] = {1, 3, 4, 13, 16, 20, 33, 64};
  int wrong = 0, cases = 0;
  for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
    for (size_t k = 0; k < sizeof(batches) / sizeof(*batches); k++)
      for (int tall = 1; tall <= TALL; tall += TALL - 1, cases++)
        wrong |= check(shapes[i][0], shapes[i][1], batches[k], 0.3f, tall);
  printf("%d cases\n", cases);
  return wrong;
}
