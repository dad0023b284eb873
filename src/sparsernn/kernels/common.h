/* Types and helpers shared by the native files of sparsernn.
 *
 * Vector code is written with the vector types of GCC and clang, so one source serves every processor: the build
 * compiles it once per vector width (build.py) and the loader picks the widest that the running machine has. */
#ifndef SPARSERNN_COMMON_H
#define SPARSERNN_COMMON_H
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define EXPORT __attribute__((visibility("default")))

#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif

/* aligned(4): the pointers come from tensors and from the middle of rows. */
typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float vw __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

enum { DENSE = 0, DENSE_INT8 = 1, CSR = 2, CSR_INT8 = 3, BLOCK16 = 4, BLOCK16_INT8 = 5 };
#define IS_INT8(kind) ((kind) & 1)

/* One weight matrix. weight_formats.py fills the same structure through ctypes.
 *   start   CSR: first entry of each row (rows + 1); BLOCK16: first block of each group of 16 rows; DENSE_INT8: the sum
 *           of each row's weights; else unused
 *   index   column of each entry (CSR) or block (BLOCK16), hence fewer than 65536 columns
 *   values  float or int8_t, row-major (BLOCK16: 16 consecutive rows of one column together; BLOCK16_INT8: of two
 *           columns, the two weights of a row side by side; each group of rows has a multiple of four blocks, the last
 *           of which may be 0)
 *           DENSE_INT8 has 64 readable bytes after the last one
 *   scale   one factor per row for int8 values */
typedef struct {
  int32_t kind, rows, columns, unused;
  const int32_t *start;
  const uint16_t *index;
  const void *values;
  const float *scale;
} Matrix;

static inline float sum_vector(vw a) {
  union { vw all; v4 part[WIDTH / 4]; } u = {a};
  v4 s = u.part[0];
  for (int i = 1; i < WIDTH / 4; i++) s += u.part[i];
  return (s[0] + s[1]) + (s[2] + s[3]);
}

/* exp(x) = 2^k (1 + q): returns q and writes 2^k, for |x| <= 88. x = k ln2 + r with ln2 in two parts, then the series of
 * exp(r) - 1, |r| <= 0.35, to the seventh order. Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the
 * low bits. All of this is without branches, so that loops over it become vector code. */
static inline float reduced(float x, float *power) {
  union { float f; uint32_t i; } shifted = {x * 1.44269504f + 12582912.0f}, scale;
  float k = shifted.f - 12582912.0f;
  float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  scale.i = (shifted.i << 23) + (127u << 23);
  *power = scale.f;
  return p * r;
}

/* exp(x) to 2e-7 relative, from exp(-87) to exp(88); NaN stays NaN. */
static inline float exponential(float x) {
  float power, q = reduced(x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x, &power);
  return power * q + power;
}

/* 3e-7 relative down to exp(-87) */
static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

/* tanh(x) to 4e-7 relative, tiny x included: with e = exp(-2|x|) - 1, of which nothing is lost to cancellation, it is
 * -e / (e + 2). At -40, tanh has long been 1. */
static inline float hyperbolic(float x) {
  float y = -2.0f * fabsf(x), power, q = reduced(y < -40.0f ? -40.0f : y, &power);
  float e = power * q + (power - 1.0f);
  return copysignf(e / (e + 2.0f), x);
}

/* Runs the statements in every thread, `me` out of `all`. `threads` is 1 or all of torch's: the OpenMP of GCC ends and
 * starts threads when teams of different sizes take turns. */
#ifdef _OPENMP
#define TOGETHER(threads, ...)                                                     \
  _Pragma("omp parallel num_threads(threads) if (threads > 1)") {                  \
    size_t me = (size_t)omp_get_thread_num(), all = (size_t)omp_get_num_threads(); \
    __VA_ARGS__                                                                    \
  }
/* Within it: until all threads are here. */
#define WAIT _Pragma("omp barrier")
#else
#define TOGETHER(threads, ...)                \
  {                                           \
    size_t me = 0, all = 1;                   \
    (void)threads;                            \
    __VA_ARGS__                               \
  }
#define WAIT
#endif

/* y[r] += (W x)[r] for the rows first <= r < last; x and y hold `batch` neighbouring columns (1, 4, 8 or 16).
 * first is a multiple of 16. scratch: 16-bit numbers of this thread alone, for each column of x twice
 * `columns` rounded up to 64. */
void multiply_rows(const Matrix *m, int first, int last, const float *x, float *y, int batch, int16_t *scratch);

/* Where a product's results go text after text: y[j * stride + r] = bias[r] + (W x)[r, j], for the first `used` columns. */
typedef struct {
  const float *bias;
  float *y;
  size_t stride;
  int used;
} Answers;

/* That, for the rows first <= r < last, else as above; returns 0, and does nothing, where the format or a batch of 1 has no
 * such product. */
int answer_rows(const Matrix *m, int first, int last, const float *x, const Answers *to, int batch, int16_t *scratch);

/* First row of the share of `thread` among `threads`, by the work in a (and b unless NULL), a multiple of 16. */
int share_start(const Matrix *a, const Matrix *b, int thread, int threads);
#endif
