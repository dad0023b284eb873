/* Inner loops of recurrent layers over one window of a sequence, in training: the element-wise rules between two
 * products, and whole windows of layers narrow enough for the cache. All tensors are float, row-major and dense. */
#include "common.h"

#define MY_ROWS(n) for (size_t r = (size_t)(n) * me / all; r < (size_t)(n) * (me + 1) / all; r++)

/* ---- Highway: s' = s + t (h - s), h = tanh and t = sigmoid of pre (n, 2H) ---- */

static void highway(float *restrict h, float *restrict t, const float *restrict s, float *restrict out, int width) {
  for (int j = 0; j < width; j++) {
    h[j] = hyperbolic(h[j]);
    t[j] = sigmoid(t[j]);
    out[j] = s[j] + t[j] * (h[j] - s[j]);
  }
}

/* h and t replace pre. */
EXPORT void sparsernn_highway_forward(float *pre, const float *s, float *out, int n, int width, int threads) {
  size_t w = (size_t)width;
  TOGETHER(threads, MY_ROWS(n) highway(pre + r * 2 * w, pre + r * 2 * w + w, s + r * w, out + r * w, width);)
}

static void highway_back(const float *restrict d, const float *restrict h, const float *restrict t,
                         const float *restrict s, float *restrict d_h, float *restrict d_t, float *restrict direct,
                         int width) {
  for (int j = 0; j < width; j++) {
    float into = d[j] * t[j];
    d_h[j] = into * (1.0f - h[j] * h[j]);
    d_t[j] = into * (h[j] - s[j]) * (1.0f - t[j]);
    direct[j] = d[j] - into;
  }
}

/* opened: h and t as forward left them; direct: what reaches s besides the product. */
EXPORT void sparsernn_highway_backward(const float *d, const float *opened, const float *s, float *d_pre, float *direct,
                                       int n, int width, int threads) {
  size_t w = (size_t)width;
  TOGETHER(threads, MY_ROWS(n) {
    const float *h = opened + r * 2 * w;
    float *d_h = d_pre + r * 2 * w;
    highway_back(d + r * w, h, h + w, s + r * w, d_h, d_h + w, direct + r * w, width);
  })
}

/* ---- Ordered neurons: a row of pre is master_in (K), master_forget (K), then o, g, i, f (K chunks of C units each) ----
 *   i~ = 1 - cumsum(softmax), f~ = cumsum(softmax), w = i~ f~;  write = i w + (i~ - w), keep = f w + (f~ - w)
 *   c' = keep c + write g;  h' = o tanh(c') */

static void softmax(float *z, int n) {
  float most = z[0], sum = 0;
  for (int j = 1; j < n; j++) most = z[j] > most ? z[j] : most;
  for (int j = 0; j < n; j++) z[j] = exponential(z[j] - most);
  for (int j = 0; j < n; j++) sum += z[j];
  for (int j = 0; j < n; j++) z[j] = z[j] / sum;
}

/* The master gates of each unit, from the softmaxes. */
static void masters(const float *restrict soft, float *restrict into, float *restrict forget, int chunks, int size) {
  float a = 0, b = 0;
  for (int k = 0; k < chunks; k++) {
    a += soft[k];
    b += soft[chunks + k];
    for (int c = 0; c < size; c++) {
      into[k * size + c] = 1.0f - a;
      forget[k * size + c] = b;
    }
  }
}

/* out and c come in with the master gates i~ and f~. */
static void ordered(float *restrict gates, const float *restrict before, float *restrict out, float *restrict c,
                    float *restrict tanh_c, int width) {
  float *o = gates, *g = gates + width, *in = g + width;
  for (int j = 0; j < width; j++) o[j] = sigmoid(o[j]);
  for (int j = 0; j < width; j++) g[j] = hyperbolic(g[j]);
  for (int j = 0; j < 2 * width; j++) in[j] = sigmoid(in[j]);
  for (int j = 0; j < width; j++) {
    float w = out[j] * c[j];
    float write = in[j] * w + (out[j] - w), keep = in[width + j] * w + (c[j] - w);
    float next = keep * before[j] + write * g[j];
    c[j] = next;
    tanh_c[j] = hyperbolic(next);
    out[j] = o[j] * tanh_c[j];
  }
}

/* Softmaxes and opened gates replace pre (n, 2K + 4KC); out, c and tanh_c are (n, KC). */
EXPORT void sparsernn_ordered_forward(float *pre, const float *before, float *out, float *c, float *tanh_c, int n,
                                      int chunks, int size, int threads) {
  size_t width = (size_t)chunks * size, wide = 2 * (size_t)chunks + 4 * width;
  TOGETHER(threads, MY_ROWS(n) {
    float *row = pre + r * wide;
    size_t at = r * width;
    softmax(row, chunks);
    softmax(row + chunks, chunks);
    masters(row, out + at, c + at, chunks, size);
    ordered(row + 2 * chunks, before + at, out + at, c + at, tanh_c + at, (int)width);
  })
}

/* Through o and tanh: the gradient of c' goes to d_c_all. */
static void ordered_back_out(const float *restrict d_h, const float *restrict d_c, const float *restrict o,
                             const float *restrict tanh_c, float *restrict d_o, float *restrict d_c_all, int width) {
  for (int j = 0; j < width; j++) {
    d_o[j] = d_h[j] * tanh_c[j] * o[j] * (1.0f - o[j]);
    d_c_all[j] = d_c[j] + d_h[j] * o[j] * (1.0f - tanh_c[j] * tanh_c[j]);
  }
}

/* Gradients of the cumulative sums, into d_z (2K): sums over the units of each chunk. */
static void ordered_back_masters(const float *restrict soft, const float *restrict gates, const float *restrict before,
                                 const float *restrict d_c, float *restrict d_z, int chunks, int size) {
  const size_t width = (size_t)chunks * size;
  const float *g = gates + width, *in = g + width, *forget = in + width;
  float a = 0, b = 0;
  for (int k = 0; k < chunks; k++) {
    float of_write = 0, of_keep = 0, inner = 0;
    for (size_t j = (size_t)k * size; j < (size_t)(k + 1) * size; j++) {
      float d_write = d_c[j] * g[j], d_keep = d_c[j] * before[j];
      of_write += d_write;
      of_keep += d_keep;
      inner += d_write * in[j] + d_keep * forget[j];
    }
    a += soft[k];
    b += soft[chunks + k];
    float of_overlap = inner - (of_write + of_keep);
    d_z[k] = -(of_write + of_overlap * b);
    d_z[chunks + k] = of_keep + of_overlap * (1.0f - a);
  }
}

/* Gradient of cumsum(softmax(z)), in place. */
static void cumax_back(const float *restrict soft, float *restrict d, int n) {
  float after = 0, mean = 0;
  for (int k = n - 1; k >= 0; k--) {
    after += d[k];
    d[k] = after;
    mean += soft[k] * after;
  }
  for (int k = 0; k < n; k++) d[k] = soft[k] * (d[k] - mean);
}

/* d_in and d_forget come in with the master gates i~ and f~, d_before with the gradient of c'. */
static void ordered_back_gates(const float *restrict gates, const float *restrict before, float *restrict d_gates,
                               float *restrict d_before, int width) {
  const float *g = gates + width, *in = g + width, *forget = in + width;
  float *d_g = d_gates + width, *d_in = d_g + width, *d_forget = d_in + width;
  for (int j = 0; j < width; j++) {
    float d_c = d_before[j], w = d_in[j] * d_forget[j];
    float write = in[j] * w + (d_in[j] - w), keep = forget[j] * w + (d_forget[j] - w);
    d_g[j] = d_c * write * (1.0f - g[j] * g[j]);
    d_in[j] = d_c * g[j] * w * in[j] * (1.0f - in[j]);
    d_forget[j] = d_c * before[j] * w * forget[j] * (1.0f - forget[j]);
    d_before[j] = d_c * keep;
  }
}

/* opened: pre as forward left it. */
EXPORT void sparsernn_ordered_backward(const float *d_h, const float *d_c, const float *opened, const float *before,
                                       const float *tanh_c, float *d_pre, float *d_before, int n, int chunks, int size,
                                       int threads) {
  size_t width = (size_t)chunks * size, wide = 2 * (size_t)chunks + 4 * width;
  TOGETHER(threads, MY_ROWS(n) {
    const float *soft = opened + r * wide;
    const float *gates = soft + 2 * chunks;
    float *d_z = d_pre + r * wide;
    float *d_gates = d_z + 2 * chunks;
    size_t at = r * width;
    ordered_back_out(d_h + at, d_c + at, gates, tanh_c + at, d_gates, d_before + at, (int)width);
    ordered_back_masters(soft, gates, before + at, d_before + at, d_z, chunks, size);
    masters(soft, d_gates + 2 * width, d_gates + 3 * width, chunks, size);
    ordered_back_gates(gates, before + at, d_gates, d_before + at, (int)width);
    cumax_back(soft, d_z, chunks);
    cumax_back(soft + chunks, d_z + chunks, chunks);
  })
}
