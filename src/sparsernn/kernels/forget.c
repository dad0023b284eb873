/* The recurrence of quasi-recurrent layers over a whole window, and back: c_t = a_t c_(t-1) + b_t for every channel.
 *
 * Two ways to give a and b: as they are, or, `gated`, by a write gate f and a candidate z: a = 1 - f, b = f z. All
 * tensors are (T, C), C channels being batch times width. Channels do not meet: each thread takes its own from the
 * first step to the last, some thousand at a time, whose state then stays in the first-level cache. Every number is
 * read and written once; that is what the time goes into. */
#include "common.h"

#define BLOCK 4096

#define MY_BLOCKS(width)                                                             \
  size_t lines = ((width) + 15) / 16, first = lines * me / all * 16, last = lines * (me + 1) / all * 16; \
  if (last > (width)) last = (width);                                                \
  for (size_t from = first, to; from < last; from = to)                              \
    if (to = from + BLOCK < last ? from + BLOCK : last, 1)

static inline __attribute__((always_inline)) void step(const int gated, const float *restrict p, const float *restrict q,
                                                       const float *restrict before, float *restrict c, size_t n) {
  for (size_t j = 0; j < n; j++) c[j] = gated ? p[j] * q[j] + (1.0f - p[j]) * before[j] : p[j] * before[j] + q[j];
}

static inline __attribute__((always_inline)) void back(const int gated, const float *restrict d, const float *restrict p,
                                                       const float *restrict q, const float *restrict before,
                                                       float *restrict d_p, float *restrict d_q, float *restrict carry,
                                                       size_t n) {
  for (size_t j = 0; j < n; j++) {
    float r = d[j] + carry[j];
    d_p[j] = gated ? (q[j] - before[j]) * r : before[j] * r;
    d_q[j] = gated ? p[j] * r : r;
    carry[j] = gated ? (1.0f - p[j]) * r : p[j] * r;
  }
}

static inline __attribute__((always_inline)) void forward(const int gated, const float *p, const float *q,
                                                          const float *before, float *c, size_t steps, size_t width,
                                                          size_t n) {
  for (size_t t = 0; t < steps; t++, p += width, q += width, before = c, c += width) step(gated, p, q, before, c, n);
}

static inline __attribute__((always_inline)) void backward(const int gated, const float *d, const float *p,
                                                           const float *q, const float *start, const float *c,
                                                           float *d_p, float *d_q, float *carry, size_t steps,
                                                           size_t width, size_t n) {
  for (size_t t = steps; t-- > 0;) {
    size_t at = t * width;
    back(gated, d + at, p + at, q + at, t ? c + at - width : start, d_p + at, d_q + at, carry, n);
  }
}

/* c (T, C) from p, q (T, C) and the state before, start (C). */
EXPORT void sparsernn_forget_forward(const float *p, const float *q, const float *start, float *c, int64_t steps,
                                     int64_t width, int gated, int threads) {
  size_t all_steps = (size_t)steps, w = (size_t)width;
  TOGETHER(threads, MY_BLOCKS(w) {
    if (gated) forward(1, p + from, q + from, start + from, c + from, all_steps, w, to - from);
    else forward(0, p + from, q + from, start + from, c + from, all_steps, w, to - from);
  })
}

/* Gradient d of c -> d_p, d_q; carry (C) comes in as 0 and goes out as the gradient of start. */
EXPORT void sparsernn_forget_backward(const float *d, const float *p, const float *q, const float *start,
                                      const float *c, float *d_p, float *d_q, float *carry, int64_t steps,
                                      int64_t width, int gated, int threads) {
  size_t all_steps = (size_t)steps, w = (size_t)width;
  TOGETHER(threads, MY_BLOCKS(w) {
    if (gated)
      backward(1, d + from, p + from, q + from, start + from, c + from, d_p + from, d_q + from, carry + from, all_steps,
               w, to - from);
    else
      backward(0, d + from, p + from, q + from, start + from, c + from, d_p + from, d_q + from, carry + from, all_steps,
               w, to - from);
  })
}
