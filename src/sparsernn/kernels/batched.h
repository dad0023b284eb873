/* Products with BATCH columns at once; sparse.c includes this file once per BATCH (with VECTOR of that many floats).
 * x is feature-major: the BATCH values of one input stand together, so a weight meets them all in one instruction. */
#define PASTE2(a, b) a##b
#define PASTE(a, b) PASTE2(a, b)
#define NAME(name) PASTE(name, BATCH)

static inline void NAME(dense_span)(VECTOR sum[4], const float *const w[4], int n, const float *x) {
  VECTOR a = sum[0], b = sum[1], c = sum[2], d = sum[3];
  for (int j = 0; j < n; j++) {
    VECTOR v = *(const VECTOR *)(x + (size_t)j * BATCH);
    a += w[0][j] * v;
    b += w[1][j] * v;
    c += w[2][j] * v;
    d += w[3][j] * v;
  }
  sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = d;
}

/* Four rows together, so that each x is loaded once for four weights. Missing rows at the end repeat the last. */
static void NAME(dense)(const Matrix *m, int first, int last, const float *x, float *y) {
  const int columns = m->columns;
  for (int r = first; r < last; r += 4) {
    VECTOR sum[4] = {{0}, {0}, {0}, {0}};
    const float *w[4];
    for (int i = 0; i < 4; i++) w[i] = (const float *)m->values + (size_t)MIN(r + i, last - 1) * columns;
    NAME(dense_span)(sum, w, columns, x);
    for (int i = 0; i < MIN(4, last - r); i++) *(VECTOR *)(y + (size_t)(r + i) * BATCH) += sum[i];
  }
}

static void NAME(dense_int8)(const Matrix *m, int first, int last, const float *x, float *y) {
  const int columns = m->columns;
  for (int r = first; r < last; r += 4) {
    VECTOR sum[4] = {{0}, {0}, {0}, {0}};
    float buffer[4][SPAN];
    const float *w[4] = {buffer[0], buffer[1], buffer[2], buffer[3]};
    for (int c = 0; c < columns; c += SPAN) {
      int n = MIN(SPAN, columns - c);
      for (int i = 0; i < 4; i++)
        widen((const int8_t *)m->values + (size_t)MIN(r + i, last - 1) * columns + c, buffer[i], n);
      NAME(dense_span)(sum, w, n, x + (size_t)c * BATCH);
    }
    for (int i = 0; i < MIN(4, last - r); i++)
      *(VECTOR *)(y + (size_t)(r + i) * BATCH) += m->scale[r + i] * sum[i];
  }
}

static inline VECTOR NAME(csr_span)(const float *w, const uint16_t *index, int n, const float *x) {
  VECTOR a = {0}, b = {0};
  int k = 0;
  for (; k + 2 <= n; k += 2) {
    a += w[k] * *(const VECTOR *)(x + (size_t)index[k] * BATCH);
    b += w[k + 1] * *(const VECTOR *)(x + (size_t)index[k + 1] * BATCH);
  }
  if (k < n) a += w[k] * *(const VECTOR *)(x + (size_t)index[k] * BATCH);
  return a + b;
}

static void NAME(csr)(const Matrix *m, int first, int last, const float *x, float *y) {
  for (int r = first; r < last; r++) {
    int k = m->start[r];
    *(VECTOR *)(y + (size_t)r * BATCH) +=
        NAME(csr_span)((const float *)m->values + k, m->index + k, m->start[r + 1] - k, x);
  }
}

static void NAME(csr_int8)(const Matrix *m, int first, int last, const float *x, float *y) {
  float buffer[SPAN];
  for (int r = first; r < last; r++) {
    VECTOR sum = {0};
    for (int k = m->start[r]; k < m->start[r + 1]; k += SPAN) {
      int n = MIN(SPAN, m->start[r + 1] - k);
      widen((const int8_t *)m->values + k, buffer, n);
      sum += NAME(csr_span)(buffer, m->index + k, n, x);
    }
    *(VECTOR *)(y + (size_t)r * BATCH) += m->scale[r] * sum;
  }
}

/* Four of the columns at a time: 4 x 16 sums stay in registers, the blocks of the row group come from the cache. */
#define BLOCK_BODY(LOAD)                                                                          \
  for (int g = first / 16; g * 16 < last; g++)                                                    \
    for (int j = 0; j < BATCH; j += 4) {                                                          \
      v16 sum[4] = {{0}, {0}, {0}, {0}};                                                          \
      for (int k = m->start[g]; k < m->start[g + 1]; k++) {                                       \
        v16 w = LOAD(m->values, k);                                                               \
        const float *in = x + (size_t)m->index[k] * BATCH + j;                                    \
        for (int i = 0; i < 4; i++) sum[i] += w * in[i];                                          \
      }                                                                                           \
      for (int r = g * 16; r < MIN(last, g * 16 + 16); r++)                                       \
        for (int i = 0; i < 4; i++) y[(size_t)r * BATCH + j + i] += ROW_SCALE(r) * sum[i][r & 15]; \
    }

static void NAME(block16)(const Matrix *m, int first, int last, const float *x, float *y) {
#define ROW_SCALE(r) 1.0f
  BLOCK_BODY(block_float)
#undef ROW_SCALE
}

static void NAME(block16_int8)(const Matrix *m, int first, int last, const float *x, float *y) {
#define ROW_SCALE(r) m->scale[r]
  BLOCK_BODY(block_int8)
#undef ROW_SCALE
}

static void NAME(rows)(const Matrix *m, int first, int last, const float *x, float *y) {
  switch (m->kind) {
    case DENSE: NAME(dense)(m, first, last, x, y); break;
    case DENSE_INT8: NAME(dense_int8)(m, first, last, x, y); break;
    case CSR: NAME(csr)(m, first, last, x, y); break;
    case CSR_INT8: NAME(csr_int8)(m, first, last, x, y); break;
    case BLOCK16: NAME(block16)(m, first, last, x, y); break;
    default: NAME(block16_int8)(m, first, last, x, y);
  }
}
#undef BLOCK_BODY
#undef NAME
#undef PASTE
#undef PASTE2
