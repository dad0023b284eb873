/* Types and helpers shared by the native files of sparsernn.
 *
 * Vector code is written with the vector types of GCC and clang, so one source serves every processor: the build
 * compiles it once per vector width (build.py) and the loader picks the widest that the running machine has. */
#ifndef SPARSERNN_COMMON_H
#define SPARSERNN_COMMON_H
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

/* One weight matrix. formats.py fills the same structure through ctypes.
 *   start   CSR: first entry of each row (rows + 1); BLOCK16: first block of each group of 16 rows; else unused
 *   index   column of each entry (CSR) or block (BLOCK16), hence fewer than 65536 columns
 *   values  float or int8_t, row-major (BLOCK16: 16 consecutive rows of one column together)
 *           DENSE_INT8 has 32 readable bytes after the last row
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

/* y[r] += (W x)[r] for the rows first <= r < last; x and y hold `batch` neighbouring columns (1, 4, 8 or 16).
 * first is a multiple of 16. scratch: 16-bit numbers of this thread alone, `columns` rounded up to 32. */
void multiply_rows(const Matrix *m, int first, int last, const float *x, float *y, int batch, int16_t *scratch);

/* First row of the share of `thread` among `threads`, by the work in a (and b unless NULL), a multiple of 16. */
int share_start(const Matrix *a, const Matrix *b, int thread, int threads);
#endif
