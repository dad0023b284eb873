/* One token through a language model of stacked LSTM layers, in one call. */
#include "common.h"

typedef struct {
  Matrix ih, hh;     /* (4 hidden, inputs) and (4 hidden, hidden), gate rows in the order i f g o */
  const float *bias; /* (4 hidden): both biases of the layer added */
} Layer;

typedef struct {
  int32_t layers, threads;
  Matrix table; /* (vocabulary, embedding): one row is read per token */
  const Layer *layer;
  Matrix head; /* (vocabulary, hidden of the last layer) */
  const float *head_bias;
} Model;

/* Units first <= u < last of the n of a layer. A share begins at a multiple of the vector width: whether a unit falls to
 * vector code or to what is left over must not depend on the number of threads, for the two round differently. */
static void cell(const float *restrict gates, float *restrict h, float *restrict c, size_t first, size_t last, size_t n) {
  const float *gi = gates, *gf = gates + n, *gg = gates + 2 * n, *go = gates + 3 * n;
  for (size_t u = first; u < last; u++) {
    float next = sigmoid(gf[u]) * c[u] + sigmoid(gi[u]) * hyperbolic(gg[u]);
    c[u] = next;
    h[u] = sigmoid(go[u]) * hyperbolic(next);
  }
}

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

/* y = bias + sum of the products, on this thread's rows */
static void affine(const Matrix *a, const float *x, const Matrix *b, const float *h, const float *bias, float *y,
                   int batch, int16_t *scratch, int me, int all) {
  int first = share_start(a, b, me, all), last = share_start(a, b, me + 1, all);
  if (batch == 1 && first < last)
    memcpy(y + first, bias + first, (size_t)(last - first) * sizeof(float));
  else
    for (int r = first; r < last; r++)
      for (int j = 0; j < batch; j++) y[(size_t)r * batch + j] = bias[r];
  multiply_rows(a, first, last, x, y, batch, scratch);
  if (b) multiply_rows(b, first, last, h, y, batch, scratch);
}

typedef struct {
  float *h_old, *h_new, *c; /* the layers' states one after the other, each (hidden, batch) */
  float *x, *gates, *logits; /* (embedding, batch), (4 * widest hidden, batch), (vocabulary, batch) */
  int16_t *scratch;          /* threads * widest input */
  int32_t scratch_stride;
} Buffers;

#ifdef _OPENMP
#define BARRIER _Pragma("omp barrier")
#else
#define BARRIER
#endif

static void token_share(const Model *m, const Buffers *b, const int64_t *tokens, int used, int batch, int me, int all) {
  int16_t *scratch = b->scratch + (size_t)me * b->scratch_stride;
  if (me == 0)
    for (int j = 0; j < used; j++) fetch(&m->table, tokens[j], b->x + j, batch);
  BARRIER
  const float *x = b->x;
  size_t at = 0;
  for (int l = 0; l < m->layers; l++) {
    const Layer *layer = m->layer + l;
    size_t n = (size_t)layer->hh.columns * batch;
    affine(&layer->ih, x, &layer->hh, b->h_old + at, layer->bias, b->gates, batch, scratch, me, all);
    BARRIER
    size_t share = (n + 16 * all - 1) / (16 * all) * 16;
    cell(b->gates, b->h_new + at, b->c + at, share * me, share * (me + 1) < n ? share * (me + 1) : n, n);
    BARRIER
    x = b->h_new + at;
    at += n;
  }
  affine(&m->head, x, NULL, NULL, m->head_bias, b->logits, batch, scratch, me, all);
}

/* tokens: `used` ids; batch: `used` rounded up to 1, 4, 8 or 16 (the columns beyond are computed and meaningless). */
EXPORT void sparsernn_token(const Model *m, const Buffers *b, const int64_t *tokens, int used, int batch) {
#ifdef _OPENMP
#pragma omp parallel num_threads(m->threads) if (m->threads > 1)
  token_share(m, b, tokens, used, batch, omp_get_thread_num(), omp_get_num_threads());
#else
  token_share(m, b, tokens, used, batch, 0, 1);
#endif
}
