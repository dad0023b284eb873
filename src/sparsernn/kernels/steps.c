/* A list of steps over a store of numbers: a stack of layers reads a token, or a whole window, in one call.
 *
 * Every operand is (rows, batch), `batch` neighbouring columns (1, 4, 8 or 16), and begins at a row of one of two stores:
 * the fixed one, which keeps states and what is needed for a moment, or the moving one, which has rows of its own for
 * each time step. Answers go out text after text. A layer is a few products and one fused element-wise step, so that a new one is a few entries of the
 * list; deploy/step_list.py makes them and step_twins.py says in torch what each does. */
#include "shuffles.h"

enum {
  LOOKUP, AFFINE, COPY, KEEP, TANH, RELU, MODRELU, LSTM, GRU, HIGHWAY, FREE_HIGHWAY, MASTERS, ORDERED, POOL_F, POOL_FO,
  POOL_IFO, NORM, SHIFT, MIXED
};

typedef struct {
  int32_t kind, rows;    /* of the result */
  int32_t y, a, b, c;    /* where operands begin: a row of the fixed store, or ~row of the moving one */
  int32_t more, size;    /* rows of a second operand; chunks, experts */
  int32_t wait, turn;    /* whether the threads meet afterwards; which of them does what one alone does */
  float factor;
  const float *vector;   /* (rows) */
  const Matrix *first, *second;
} Step;

/* Steps from `first` to before `last`, done for each time step from the first to the last one, or backwards. */
typedef struct {
  int32_t first, last, backwards;
} Pass;

typedef struct {
  const Step *steps;
  const Pass *passes;
  int32_t count, moving_rows, scratch_stride;
  int32_t outputs, output_rows; /* where the answer stands when the last step of a time step is done */
} List;

typedef struct {
  float *fixed, *moving;  /* (rows, batch), (time, moving_rows, batch) */
  int16_t *scratch;       /* threads * scratch_stride * batch */
  const int64_t *tokens;  /* (time, used) */
  const int32_t *lengths; /* (used), or NULL */
  float *answers;         /* (time, used, output_rows) */
  int32_t time, used, batch, threads;
} Call;

/* What a step reads and writes, and this thread's share of it: numbers low <= k < high. A share begins at a multiple of
 * 16: whether a number falls to vector code or to what is left over must not depend on the number of threads, for the two
 * round differently. */
typedef struct {
  float *y, *b, *c;
  const float *a;
  size_t n, low, high; /* n = rows * batch */
} View;

static void fetch(const Matrix *m, int64_t row, float *x, int stride) {
  float scale = IS_INT8(m->kind) ? m->scale[row] : 1.0f;
  const float *f = m->values;
  const int8_t *b = m->values;
  if (m->kind == DENSE || m->kind == DENSE_INT8) {
    size_t at = (size_t)row * m->columns;
    for (int j = 0; j < m->columns; j++)
      x[(size_t)j * stride] = m->kind == DENSE ? f[at + j] : scale * b[at + j];
    return;
  }
  for (int j = 0; j < m->columns; j++) x[(size_t)j * stride] = 0;
  for (int k = m->start[row]; k < m->start[row + 1]; k++)
    x[(size_t)m->index[k] * stride] = m->kind == CSR ? f[k] : scale * b[k];
}

/* y = vector + first a + second b, for the rows first <= r < last */
static void affine_rows(const Step *s, const View *v, int first, int last, float *y, int batch, int16_t *scratch) {
  if (batch == 1)
    memcpy(y + first, s->vector + first, (size_t)(last - first) * sizeof(float));
  else
    for (int r = first; r < last; r++)
      for (int j = 0; j < batch; j += 4) *(v4 *)(y + (size_t)r * batch + j) = s->vector[r] - (v4){0};
  multiply_rows(s->first, first, last, v->a, y, batch, scratch);
  if (s->second) multiply_rows(s->second, first, last, v->b, y, batch, scratch);
}

/* The same on this thread's rows. */
static void affine(const Step *s, const View *v, int batch, int16_t *scratch, int me, int all) {
  int first = share_start(s->first, s->second, me, all), last = share_start(s->first, s->second, me + 1, all);
  if (first < last) affine_rows(s, v, first, last, v->y, batch, scratch);
}

/* ---- element-wise steps */

#define EACH for (size_t k = v->low; k < v->high; k++)
#define BLOCK(name, number) const float *restrict name = v->a + (number) * v->n

static void lstm(const View *v) {
  BLOCK(i, 0); BLOCK(f, 1); BLOCK(g, 2); BLOCK(o, 3);
  float *restrict h = v->y, *restrict c = v->c;
  EACH {
    float next = sigmoid(f[k]) * c[k] + sigmoid(i[k]) * hyperbolic(g[k]);
    c[k] = next;
    h[k] = sigmoid(o[k]) * hyperbolic(next);
  }
}

/* a: what the input gives to the three gates; b: what the state gives */
static void gru(const View *v) {
  BLOCK(r, 0); BLOCK(z, 1); BLOCK(n, 2);
  const float *restrict own_r = v->b, *restrict own_z = v->b + v->n, *restrict own_n = v->b + 2 * v->n;
  float *restrict h = v->y;
  EACH {
    float keep = sigmoid(z[k] + own_z[k]), fresh = hyperbolic(n[k] + sigmoid(r[k] + own_r[k]) * own_n[k]);
    h[k] = (1.0f - keep) * fresh + keep * h[k];
  }
}

static void highway(const View *v) {
  BLOCK(h, 0); BLOCK(t, 1);
  float *restrict s = v->y;
  EACH s[k] += (hyperbolic(h[k]) - s[k]) * sigmoid(t[k]);
}

static void free_highway(const View *v) {
  BLOCK(h, 0); BLOCK(t, 1); BLOCK(c, 2);
  float *restrict s = v->y;
  EACH s[k] = hyperbolic(h[k]) * sigmoid(t[k]) + s[k] * sigmoid(c[k]);
}

static void pool(const View *v, float write, int out) {
  BLOCK(z, 0); BLOCK(f, 1); BLOCK(o, 2);
  float *restrict c = v->c, *restrict h = v->y;
  EACH {
    float open = sigmoid(f[k]) * write;
    c[k] = open * hyperbolic(z[k]) + (1.0f - open) * c[k];
  }
  if (out) EACH h[k] = sigmoid(o[k]) * c[k];
}

static void pool_ifo(const View *v, float write) {
  BLOCK(z, 0); BLOCK(f, 1); BLOCK(o, 2); BLOCK(i, 3);
  float *restrict c = v->c, *restrict h = v->y;
  EACH {
    float keep = 1.0f - (1.0f - sigmoid(f[k])) * write;
    c[k] = keep * c[k] + sigmoid(i[k]) * write * hyperbolic(z[k]);
    h[k] = sigmoid(o[k]) * c[k];
  }
}

static void activate(const View *v, int kind) {
  float *restrict y = v->y;
  const float *restrict a = v->a, *restrict b = v->b;
  if (kind == COPY) EACH y[k] = a[k];
  else if (kind == TANH) EACH y[k] = hyperbolic(a[k]);
  else if (kind == RELU) EACH y[k] = a[k] < 0 ? 0 : a[k];
  else EACH {
    float size = fabsf(a[k]) + b[k];
    y[k] = a[k] == 0 || size < 0 ? 0 : copysignf(size, a[k]);
  }
}

/* The master gates of ordered neurons, for every unit: y (2, rows) = 1 - cumax of the first chunks of a (2 chunks), cumax of
 * the others. a is overwritten. */
static void masters(const View *v, float *z, int chunks, int batch) {
  size_t wide = v->n / (size_t)chunks, columns = (size_t)batch;
  for (int half = 0; half < 2; half++, z += (size_t)chunks * columns)
    for (size_t j = 0; j < columns; j++) {
      float top = z[j], sum = 0, so_far = 0, *y = v->y + (size_t)half * v->n + j;
      for (size_t k = 1; k < (size_t)chunks; k++) top = z[k * columns + j] > top ? z[k * columns + j] : top;
      for (size_t k = 0; k < (size_t)chunks; k++) sum += z[k * columns + j] = exponential(z[k * columns + j] - top);
      for (size_t k = 0; k < (size_t)chunks; k++, y += wide) {
        so_far += z[k * columns + j] / sum;
        for (size_t u = 0; u < wide; u += columns) y[u] = half ? so_far : 1.0f - so_far;
      }
    }
}

/* a: the gates out, cell, in, forget; b: what `masters` made */
static void ordered(const View *v) {
  BLOCK(out, 0); BLOCK(cell, 1); BLOCK(in, 2); BLOCK(forget, 3);
  const float *restrict i = v->b, *restrict f = v->b + v->n;
  float *restrict h = v->y, *restrict c = v->c;
  EACH {
    float w = f[k] * i[k], keep = sigmoid(forget[k]) * w + (f[k] - w), write = sigmoid(in[k]) * w + (i[k] - w);
    c[k] = keep * c[k] + write * hyperbolic(cell[k]);
  }
  EACH h[k] = sigmoid(out[k]) * hyperbolic(c[k]);
}

/* ---- scores */

#define LANES 16 /* a multiple of every batch, so that a lane belongs to one column */

static void highest(const float *x, size_t n, float *top) {
  size_t k = 0;
  for (; k + LANES <= n; k += LANES)
    for (int l = 0; l < LANES; l++) top[l] = x[k + l] > top[l] ? x[k + l] : top[l];
  for (int l = 0; k + l < n; l++) top[l] = x[k + l] > top[l] ? x[k + l] : top[l];
}

static void add_exponentials(const float *x, size_t n, const float *top, float *sum) {
  size_t k = 0;
  for (; k + LANES <= n; k += LANES)
    for (int l = 0; l < LANES; l++) sum[l] += exponential(x[k + l] - top[l]);
  for (int l = 0; k + l < n; l++) sum[l] += exponential(x[k + l] - top[l]);
}

/* y (1) = c (1, if size) - log of the sum of exp over the rows of a (rows) and b (more) */
static void norm(const Step *s, const View *v, int batch) {
  size_t n = (size_t)s->rows * batch, more = (size_t)s->more * batch;
  float top[LANES], sum[LANES] = {0};
  for (int l = 0; l < LANES; l++) top[l] = v->a[l % batch];
  highest(v->a, n, top);
  highest(v->b, more, top);
  for (int l = batch; l < LANES; l++) top[l % batch] = top[l] > top[l % batch] ? top[l] : top[l % batch];
  for (int l = batch; l < LANES; l++) top[l] = top[l % batch];
  add_exponentials(v->a, n, top, sum);
  add_exponentials(v->b, more, top, sum);
  for (int l = batch; l < LANES; l++) sum[l % batch] += sum[l];
  for (int j = 0; j < batch; j++) v->y[j] = (s->size ? v->c[j] : 0.0f) - (top[j] + logf(sum[j]));
}

/* y (rows) += b (1) */
static void shift(const View *v, int batch) {
  float by[LANES];
  for (int l = 0; l < LANES; l++) by[l] = v->b[l % batch];
  for (size_t k = v->low; k < v->high; k += LANES)
    for (size_t l = 0; l < LANES && k + l < v->high; l++) v->y[k + l] += by[l];
}

/* y (rows) = log of the sum over `size` experts e of exp(a[e] + b[e]), and of exp(factor); a (size, rows), b (size, 1). */
static void mix(const Step *s, const View *v, int batch) {
  size_t experts = (size_t)s->size;
  for (size_t k = v->low; k < v->high; k += LANES) {
    size_t valid = v->high - k < LANES ? v->high - k : LANES;
    float x[LANES] = {0}, top[LANES], sum[LANES];
    for (size_t l = 0; l < LANES; l++) top[l] = s->factor < -87.0f ? -1e30f : s->factor, sum[l] = 0;
    for (size_t e = 0; e < experts; e++)
      for (size_t l = 0; l < valid; l++) {
        float z = v->a[e * v->n + k + l] + v->b[e * (size_t)batch + l % (size_t)batch];
        top[l] = z > top[l] ? z : top[l];
      }
    for (size_t e = 0; e < experts; e++) {
      for (size_t l = 0; l < valid; l++) x[l] = v->a[e * v->n + k + l] + v->b[e * (size_t)batch + l % (size_t)batch] - top[l];
      for (size_t l = 0; l < LANES; l++) sum[l] += exponential(x[l]);
    }
    for (size_t l = 0; l < valid; l++)
      v->y[k + l] = top[l] + logf(sum[l] + (s->factor < -87.0f ? 0.0f : exponential(s->factor - top[l])));
  }
}

/* ---- answers: (used, rows) from (rows, batch) */

/* Rows first <= r < last, first a multiple of 4. */
static void put(const float *in, int first, int last, int rows, int batch, int used, float *out) {
  if (first >= last) return;
  if (batch == 1) {
    memcpy(out + first, in + first, (size_t)(last - first) * sizeof(float));
    return;
  }
  for (int r = first; r < last; r += 4)
    for (int j = 0; j < used; j += 4) {
      const int many = last - r < 4 ? last - r : 4, texts = used - j < 4 ? used - j : 4;
      if (many == 4 && texts == 4) {
        square(in + (size_t)r * batch + j, (size_t)batch, out + (size_t)j * rows + r, (size_t)rows);
        continue;
      }
      float own[4][4] = {{0}}, turned[4][4];
      for (int i = 0; i < many; i++) memcpy(own[i], in + (size_t)(r + i) * batch + j, sizeof own[i]);
      square(own[0], 4, turned[0], 4);
      for (int i = 0; i < texts; i++) memcpy(out + (size_t)(j + i) * rows + r, turned[i], (size_t)many * sizeof(float));
    }
}

/* A last step that is a product: its rows go out text after text at once where its format can do that, else few at a time,
 * which stay in the cache. */
#define FEW 256
static void answer(const Step *s, const View *v, const Call *call, float *out, int16_t *scratch, int me, int all) {
  const int first = share_start(s->first, NULL, me, all), last = share_start(s->first, NULL, me + 1, all);
  const Answers to = {s->vector, out, (size_t)s->rows, call->used};
  if (first >= last || answer_rows(s->first, first, last, v->a, &to, call->batch, scratch)) return;
  if (call->batch == 1) affine_rows(s, v, first, last, out, 1, scratch);
  else
    for (int r = first; r < last; r += FEW) {
      const int end = last - r < FEW ? last : r + FEW;
      affine_rows(s, v, r, end, v->y, call->batch, scratch);
      put(v->y, r, end, s->rows, call->batch, call->used, out);
    }
}

/* ---- the list */

static float *place(const List *list, const Call *call, int32_t at, int t) {
  size_t batch = (size_t)call->batch;
  if (at >= 0) return call->fixed + (size_t)at * batch;
  return call->moving + ((size_t)t * list->moving_rows + (size_t)~at) * batch;
}

/* States of sequences that are not there at this time are 0, so that one read backwards begins at its own end. */
static void keep(const Step *s, const View *v, const Call *call, int t) {
  if (!call->lengths) return;
  for (int j = 0; j < call->used; j++)
    if (t >= call->lengths[j])
      for (int r = 0; r < s->rows; r++) v->y[(size_t)r * call->batch + j] = 0;
}

/* What one thread does alone. */
static void do_alone(const Step *s, const View *v, float *z, const Call *call, int t) {
  if (s->kind == NORM) norm(s, v, call->batch);
  else if (s->kind == MASTERS) masters(v, z, s->size, call->batch);
  else if (s->kind == KEEP) keep(s, v, call, t);
  else
    for (int j = 0; j < call->used; j++)
      fetch(s->first, call->tokens[(size_t)t * call->used + j], v->y + j, call->batch);
}

static void do_step(const List *list, const Call *call, const Step *s, int t, float *out, int me, int all) {
  View v = {place(list, call, s->y, t), place(list, call, s->b, t), place(list, call, s->c, t),
            place(list, call, s->a, t), (size_t)s->rows * call->batch, 0, 0};
  size_t share = (v.n + 16 * (size_t)all - 1) / (16 * (size_t)all) * 16;
  v.low = share * me < v.n ? share * me : v.n;
  v.high = share * (me + 1) < v.n ? share * (me + 1) : v.n;
  int16_t *scratch = call->scratch + (size_t)me * list->scratch_stride * (size_t)call->batch;
  switch (s->kind) {
    case AFFINE:
      if (out)
        answer(s, &v, call, out, scratch, me, all);
      else
        affine(s, &v, call->batch, scratch, me, all);
      break;
    case COPY: case TANH: case RELU: case MODRELU: activate(&v, s->kind); break;
    case LSTM: lstm(&v); break;
    case GRU: gru(&v); break;
    case HIGHWAY: highway(&v); break;
    case FREE_HIGHWAY: free_highway(&v); break;
    case ORDERED: ordered(&v); break;
    case POOL_F: pool(&v, s->factor, 0); break;
    case POOL_FO: pool(&v, s->factor, 1); break;
    case POOL_IFO: pool_ifo(&v, s->factor); break;
    case SHIFT: shift(&v, call->batch); break;
    case MIXED: mix(s, &v, call->batch); break;
    default: if (s->turn % all == me) do_alone(s, &v, place(list, call, s->a, t), call, t);
  }
}

/* The steps of a pass at one time. Unless the last one is a product that is the whole answer, this is put out afterwards. */
static void do_time(const List *list, const Call *call, const Pass *pass, int t, int me, int all) {
  const Step *steps = list->steps, *end = steps + pass->last, *last = end - 1;
  const int whole = last->kind == AFFINE && !last->second && last->y == list->outputs && last->rows == list->output_rows;
  float *out = pass == list->passes + list->count - 1
                   ? call->answers + (size_t)t * (size_t)call->used * (size_t)list->output_rows
                   : NULL;
  for (const Step *s = steps + pass->first; s < end; s++) {
    do_step(list, call, s, t, s == last && whole ? out : NULL, me, all);
    if (s->wait) { WAIT }
  }
  if (!out || whole) return;
  const int rows = list->output_rows, share = (rows + 4 * all - 1) / (4 * all) * 4, first = share * me;
  const float *in = place(list, call, list->outputs, t);
  put(in, first, first + share < rows ? first + share : rows, rows, call->batch, call->used, out);
  WAIT /* the next time's first step may write where another thread still reads */
}

static void do_list(const List *list, const Call *call, int me, int all) {
  for (const Pass *pass = list->passes; pass < list->passes + list->count; pass++)
    for (int n = 0; n < call->time; n++)
      do_time(list, call, pass, pass->backwards ? call->time - 1 - n : n, me, all);
}

EXPORT void sparsernn_steps(const List *list, const Call *call) {
  int threads = call->threads;
  TOGETHER(threads, do_list(list, call, (int)me, (int)all);)
}
