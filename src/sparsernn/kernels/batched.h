/* Products with BATCH columns at once; sparse.c includes this file once per BATCH, held in PARTS pieces of VECTOR.
 * x is feature-major: the BATCH values of one input stand together, so a weight meets them all in one instruction. */
#define PASTE2(a, b) a##b
#define PASTE(a, b) PASTE2(a, b)
#define NAME(name) PASTE(name, BATCH)
#define LANES (BATCH / PARTS)
#define EACH_PART for (int p = 0; p < PARTS; p++)
#define PART(pointer, i) (*(VECTOR *)((pointer) + (size_t)(i) * BATCH + p * LANES))
#define CONST_PART(pointer, i) (*(const VECTOR *)((pointer) + (size_t)(i) * BATCH + p * LANES))

/* Four rows together, so that each x is loaded once for four weights. */
static inline void NAME(dense_span)(VECTOR sum[4][PARTS], const float *const w[4], int n, const float *x) {
  VECTOR s[4][PARTS];
  memcpy(s, sum, sizeof s);
  for (int j = 0; j < n; j++)
    EACH_PART {
      VECTOR v = CONST_PART(x, j);
      s[0][p] += w[0][j] * v;
      s[1][p] += w[1][j] * v;
      s[2][p] += w[2][j] * v;
      s[3][p] += w[3][j] * v;
    }
  memcpy(sum, s, sizeof s);
}

/* Missing rows at the end repeat the last. */
static void NAME(dense)(const Matrix *m, int first, int last, const float *x, float *y) {
  const int columns = m->columns;
  for (int r = first; r < last; r += 4) {
    VECTOR sum[4][PARTS];
    memset(sum, 0, sizeof sum);
    const float *w[4];
    for (int i = 0; i < 4; i++) w[i] = (const float *)m->values + (size_t)MIN(r + i, last - 1) * columns;
    NAME(dense_span)(sum, w, columns, x);
    for (int i = 0; i < MIN(4, last - r); i++) EACH_PART PART(y, r + i) += sum[i][p];
  }
}

static void NAME(dense_int8)(const Matrix *m, int first, int last, const float *x, float *y) {
  const int columns = m->columns;
  for (int r = first; r < last; r += 4) {
    VECTOR sum[4][PARTS];
    memset(sum, 0, sizeof sum);
    float buffer[4][SPAN];
    const float *w[4] = {buffer[0], buffer[1], buffer[2], buffer[3]};
    for (int c = 0; c < columns; c += SPAN) {
      int n = MIN(SPAN, columns - c);
      for (int i = 0; i < 4; i++)
        widen((const int8_t *)m->values + (size_t)MIN(r + i, last - 1) * columns + c, buffer[i], n);
      NAME(dense_span)(sum, w, n, x + (size_t)c * BATCH);
    }
    for (int i = 0; i < MIN(4, last - r); i++) EACH_PART PART(y, r + i) += m->scale[r + i] * sum[i][p];
  }
}

static inline void NAME(csr_span)(float *y, float scale, const float *w, const uint16_t *index, int n, const float *x) {
  VECTOR a[PARTS], b[PARTS];
  memset(a, 0, sizeof a);
  memset(b, 0, sizeof b);
  int k = 0;
  for (; k + 2 <= n; k += 2)
    EACH_PART {
      a[p] += w[k] * CONST_PART(x, index[k]);
      b[p] += w[k + 1] * CONST_PART(x, index[k + 1]);
    }
  if (k < n) EACH_PART a[p] += w[k] * CONST_PART(x, index[k]);
  EACH_PART PART(y, 0) += scale * (a[p] + b[p]);
}

static void NAME(csr)(const Matrix *m, int first, int last, const float *x, float *y) {
  for (int r = first; r < last; r++) {
    int k = m->start[r], n = m->start[r + 1] - k;
    NAME(csr_span)(y + (size_t)r * BATCH, 1.0f, (const float *)m->values + k, m->index + k, n, x);
  }
}

static void NAME(csr_int8)(const Matrix *m, int first, int last, const float *x, float *y) {
  float buffer[SPAN];
  for (int r = first; r < last; r++)
    for (int k = m->start[r]; k < m->start[r + 1]; k += SPAN) {
      int n = MIN(SPAN, m->start[r + 1] - k);
      widen((const int8_t *)m->values + k, buffer, n);
      NAME(csr_span)(y + (size_t)r * BATCH, m->scale[r], buffer, m->index + k, n, x);
    }
}

/* Four of the columns at a time: 4 x 16 sums stay in registers, the blocks of the row group come from the cache. */
static void NAME(block16)(const Matrix *m, int first, int last, const float *x, float *y) {
  for (int g = first / 16; g * 16 < last; g++)
    for (int j = 0; j < BATCH; j += 4) {
      vw a[4][16 / WIDTH];
      float sum[4][16];
      memset(a, 0, sizeof a);
      for (int k = m->start[g]; k < m->start[g + 1]; k++) {
        const float *in = x + (size_t)m->index[k] * BATCH + j;
        for (int p = 0; p < 16 / WIDTH; p++) {
          vw w = block_float(m->values, k, p);
          for (int i = 0; i < 4; i++) a[i][p] += w * in[i];
        }
      }
      memcpy(sum, a, sizeof sum);
      for (int r = g * 16; r < MIN(last, g * 16 + 16); r++)
        for (int i = 0; i < 4; i++) y[(size_t)r * BATCH + j + i] += sum[i][r & 15];
    }
}

#include "batched_blocks.h"

static void NAME(rows)(const Matrix *m, int first, int last, const float *x, float *y, int16_t *scratch) {
  switch (m->kind) {
    case DENSE: NAME(dense)(m, first, last, x, y); break;
    case DENSE_INT8: NAME(dense_int8)(m, first, last, x, y); break;
    case CSR: NAME(csr)(m, first, last, x, y); break;
    case CSR_INT8: NAME(csr_int8)(m, first, last, x, y); break;
    case BLOCK16: NAME(block16)(m, first, last, x, y); break;
    default: NAME(blocks_int8)(m, first, last, x, y, NULL, scratch);
  }
}
#undef CONST_PART
#undef PART
#undef EACH_PART
#undef LANES
#undef NAME
#undef PASTE
#undef PASTE2
#undef BATCH
#undef VECTOR
#undef PARTS
