/* y = W x for dense, compressed-row and block-sparse W, with 32-bit float or 8-bit integer weights. */
#include "shuffles.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define ROUND64(n) (((n) + 63) / 64 * 64)
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define SPAN 256 /* int8 weights turned into floats at a time: 1 KB, stays in the nearest cache */

/* WIDTH int8 weights as floats. GCC's own conversion of a small vector takes a dozen shuffles, hence by hand. */
#if defined(__AVX512F__)
static inline vw widen_vector(const int8_t *in) {
  return (vw)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)in)));
}
#elif defined(__AVX2__)
static inline vw widen_vector(const int8_t *in) {
  return (vw)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)in)));
}
#else
static inline vw widen_vector(const int8_t *in) {
  vw out;
  for (int i = 0; i < WIDTH; i++) out[i] = in[i];
  return out;
}
#endif

static inline void widen(const int8_t *in, float *out, int n) {
  int i = 0;
  for (; i + WIDTH <= n; i += WIDTH) *(vw *)(out + i) = widen_vector(in + i);
  for (; i < n; i++) out[i] = in[i];
}

/* Part p of block k: WIDTH of its 16 rows. */
static inline vw block_float(const void *values, int k, int p) {
  return *(const vw *)((const float *)values + (size_t)k * 16 + p * WIDTH);
}

#include "whole_numbers.h"

#define BATCH 4
#define VECTOR v4
#define PARTS 1
#include "batched.h"
#define BATCH 8
#if WIDTH >= 8
#define VECTOR v8
#define PARTS 1
#else
#define VECTOR v4
#define PARTS 2
#endif
#include "batched.h"
#define BATCH 16
#define VECTOR vw
#define PARTS (16 / WIDTH)
#include "batched.h"

/* ---- one column: dense */

static void dense1(const Matrix *m, int first, int last, const float *x, float *y) {
  const int columns = m->columns;
  for (int r = first; r < last; r += 4) {
    const float *w[4];
    for (int i = 0; i < 4; i++) w[i] = (const float *)m->values + (size_t)MIN(r + i, last - 1) * columns;
    vw a[4] = {{0}, {0}, {0}, {0}}, b[4] = {{0}, {0}, {0}, {0}};
    int c = 0;
    for (; c + 2 * WIDTH <= columns; c += 2 * WIDTH) {
      vw x0 = *(const vw *)(x + c), x1 = *(const vw *)(x + c + WIDTH);
      for (int i = 0; i < 4; i++) a[i] += *(const vw *)(w[i] + c) * x0;
      for (int i = 0; i < 4; i++) b[i] += *(const vw *)(w[i] + c + WIDTH) * x1;
    }
    for (int i = 0; i < MIN(4, last - r); i++) {
      float s = sum_vector(a[i] + b[i]);
      for (int j = c; j < columns; j++) s += w[i][j] * x[j];
      y[r + i] += s;
    }
  }
}

/* The sum of a row, in pieces short enough for 32 bits: a pair of products is below 2 * 127 * 32767 = 8.3e6, and no
 * 32-bit lane takes more than 256 pairs (2.1e9). */
#if defined(__AVX512BW__)
#define PIECE 4096
static inline int64_t integer_sum(const int8_t *w, const int16_t *x, int n) {
  __m512i a = _mm512_setzero_si512();
  for (int c = 0; c < n; c += 32) {
    __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(w + c)));
    a = _mm512_add_epi32(a, _mm512_madd_epi16(wide, _mm512_loadu_si512((const void *)(x + c))));
  }
  __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(a));
  return _mm512_reduce_add_epi64(_mm512_add_epi64(low, _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(a, 1))));
}
#elif defined(__AVX2__)
#define PIECE 4096
static inline __m256i madd16(const int8_t *w, const int16_t *x) {
  __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)w));
  return _mm256_madd_epi16(wide, _mm256_loadu_si256((const __m256i *)x));
}
static inline __m256i long_sums(__m256i a) {
  __m256i low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(a));
  return _mm256_add_epi64(low, _mm256_cvtepi32_epi64(_mm256_extracti128_si256(a, 1)));
}
static inline int64_t integer_sum(const int8_t *w, const int16_t *x, int n) {
  __m256i a = _mm256_setzero_si256(), b = a;
  for (int c = 0; c < n; c += 32) {
    a = _mm256_add_epi32(a, madd16(w + c, x + c));
    b = _mm256_add_epi32(b, madd16(w + c + 16, x + c + 16));
  }
  int64_t lane[4];
  _mm256_storeu_si256((__m256i *)lane, _mm256_add_epi64(long_sums(a), long_sums(b)));
  return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}
#else
#define PIECE 512
static inline int64_t integer_sum(const int8_t *w, const int16_t *x, int n) {
  int32_t s = 0;
  for (int c = 0; c < n; c++) s += (int32_t)w[c] * x[c];
  return s;
}
#endif

static void dense_int8_1(const Matrix *m, int first, int last, const float *x, float *y, int16_t *scratch) {
  const int columns = ROUND64(m->columns);
  const float unit = quantise(x, m->columns, scratch);
  for (int r = first; r < last; r++) {
    const int8_t *w = (const int8_t *)m->values + (size_t)r * m->columns;
    int64_t s = 0;
    for (int c = 0; c < columns; c += PIECE) s += integer_sum(w + c, scratch + c, MIN(PIECE, columns - c));
    y[r] += m->scale[r] * unit * (float)s;
  }
}

/* ---- one column: compressed rows. Four inputs are collected into a vector by single loads: on the AVX2 processor
 * measured (Zen 3) that takes 1.1 ms where gather instructions take 1.6 and a scalar loop 1.4 (3 million entries). */

static inline v4 collect(const uint16_t *index, const float *x) {
  return (v4){x[index[0]], x[index[1]], x[index[2]], x[index[3]]};
}

static inline float csr_sum(const float *w, const uint16_t *index, int n, const float *x) {
  v4 a = {0}, b = {0};
  int k = 0;
  for (; k + 8 <= n; k += 8) {
    a += *(const v4 *)(w + k) * collect(index + k, x);
    b += *(const v4 *)(w + k + 4) * collect(index + k + 4, x);
  }
  a += b;
  float s = (a[0] + a[1]) + (a[2] + a[3]);
  for (; k < n; k++) s += w[k] * x[index[k]];
  return s;
}

static void csr1(const Matrix *m, int first, int last, const float *x, float *y) {
  for (int r = first; r < last; r++) {
    int k = m->start[r];
    y[r] += csr_sum((const float *)m->values + k, m->index + k, m->start[r + 1] - k, x);
  }
}

static void csr_int8_1(const Matrix *m, int first, int last, const float *x, float *y) {
  float buffer[SPAN];
  for (int r = first; r < last; r++) {
    float s = 0;
    for (int k = m->start[r]; k < m->start[r + 1]; k += SPAN) {
      int n = MIN(SPAN, m->start[r + 1] - k);
      widen((const int8_t *)m->values + k, buffer, n);
      s += csr_sum(buffer, m->index + k, n, x);
    }
    y[r] += m->scale[r] * s;
  }
}

/* ---- one column: blocks of 16 rows that share a column; four blocks in flight hide the latency of the additions */

#define BLOCK_SUM(LOAD)                                                                      \
  float sum[16];                                                                             \
  vw a[4][16 / WIDTH];                                                                       \
  memset(a, 0, sizeof a);                                                                    \
  int k = m->start[g], end = m->start[g + 1];                                                \
  for (; k + 4 <= end; k += 4)                                                               \
    for (int i = 0; i < 4; i++)                                                              \
      for (int p = 0; p < 16 / WIDTH; p++) a[i][p] += LOAD(m->values, k + i, p) * x[m->index[k + i]]; \
  for (; k < end; k++)                                                                       \
    for (int p = 0; p < 16 / WIDTH; p++) a[0][p] += LOAD(m->values, k, p) * x[m->index[k]];  \
  for (int p = 0; p < 16 / WIDTH; p++) *(vw *)(sum + p * WIDTH) = (a[0][p] + a[1][p]) + (a[2][p] + a[3][p]);

static void block16_1(const Matrix *m, int first, int last, const float *x, float *y) {
  for (int g = first / 16; g * 16 < last; g++) {
    BLOCK_SUM(block_float)
    for (int r = g * 16; r < MIN(last, g * 16 + 16); r++) y[r] += sum[r & 15];
  }
}

#include "vnni.h"

/* ---- choice of the function, division of the rows, entry point */

static void rows1(const Matrix *m, int first, int last, const float *x, float *y, int16_t *scratch) {
  switch (m->kind) {
    case DENSE: dense1(m, first, last, x, y); break;
    case DENSE_INT8: (has_vnni ? dense_int8_vnni : dense_int8_1)(m, first, last, x, y, scratch); break;
    case CSR: csr1(m, first, last, x, y); break;
    case CSR_INT8: csr_int8_1(m, first, last, x, y); break;
    case BLOCK16: block16_1(m, first, last, x, y); break;
    default: (has_vnni ? block16_int8_vnni : block16_int8_1)(m, first, last, x, y, scratch);
  }
}

void multiply_rows(const Matrix *m, int first, int last, const float *x, float *y, int batch, int16_t *scratch) {
  if (first >= last) return;
  switch (batch) {
    case 1: rows1(m, first, last, x, y, scratch); break;
    case 4: rows4(m, first, last, x, y, scratch); break;
    case 8: rows8(m, first, last, x, y, scratch); break;
    default: rows16(m, first, last, x, y, scratch);
  }
}

int answer_rows(const Matrix *m, int first, int last, const float *x, const Answers *to, int batch, int16_t *scratch) {
  if (m->kind != BLOCK16_INT8 || batch == 1) return 0;
  switch (batch) {
    case 4: blocks_int84(m, first, last, x, NULL, to, scratch); break;
    case 8: blocks_int88(m, first, last, x, NULL, to, scratch); break;
    default: blocks_int816(m, first, last, x, NULL, to, scratch);
  }
  return 1;
}

/* Work in the rows before r: entries to read, an int8 one counted half a float one. */
static double work_before(const Matrix *m, int r) {
  double entries;
  if (m->kind <= DENSE_INT8)
    entries = (double)r * m->columns;
  else if (m->kind <= CSR_INT8)
    entries = 2.0 * m->start[r];
  else
    entries = 16.0 * m->start[MIN(r + 15, m->rows + 15) / 16];
  return IS_INT8(m->kind) ? entries / 2 : entries;
}

int share_start(const Matrix *a, const Matrix *b, int thread, int threads) {
  int low = 0, high = a->rows;
  if (thread >= threads) return high;
  double wanted = (work_before(a, high) + (b ? work_before(b, high) : 0)) * thread / threads;
  while (low < high) {
    int middle = (low + high) / 2;
    if (work_before(a, middle) + (b ? work_before(b, middle) : 0) < wanted)
      low = middle + 1;
    else
      high = middle;
  }
  return MIN((low + 15) / 16 * 16, a->rows);
}

/* y (rows, batch) = W x (columns, batch), feature-major, batch 1, 4, 8 or 16; scratch: int16, for each thread
 * and column of x twice as many as W has columns, rounded up to a multiple of 64. */
EXPORT void sparsernn_multiply(const Matrix *m, const float *x, float *y, int batch, int16_t *scratch, int threads) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) if (threads > 1)
#endif
  {
#ifdef _OPENMP
    int me = omp_get_thread_num(), all = omp_get_num_threads();
#else
    int me = 0, all = 1;
    (void)threads;
#endif
    int first = share_start(m, NULL, me, all), last = share_start(m, NULL, me + 1, all);
    if (first < last) memset(y + (size_t)first * batch, 0, (size_t)(last - first) * batch * sizeof(float));
    multiply_rows(m, first, last, x, y, batch, scratch + (size_t)me * (size_t)batch * 2 * ROUND64(m->columns));
  }
}

/* What the loader asks. */
EXPORT int sparsernn_has_openmp(void) {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}

/* Changes whenever a signature or structure changes, so that a library of an older build is not called wrongly. */
EXPORT int sparsernn_interface(void) { return 16; }
