/* A whole window of several LSTMs side by side in one call, and back. Each has its own weights, and its own columns of
 * the state and of the output; what reads backwards is one more of them.
 *
 * Threads share out the units of all of them, 16 at a time, and end every time step together. A share begins at a
 * multiple of the vector width: whether a unit falls to vector code must not depend on the number of threads. */
#include "dots.h"
#include "panels.h"

/* One LSTM of `width` units; its weight (4h, h) has gates in the order i f g o. Forward: gates (T, B, 4h) holds what the
 * inputs give, or nothing yet where there is an x to be read; opened gates replace it. Back: gates as forward left them.
 * Gates may be (`held`, B, 4h) instead where there is an x: then only the latest steps stay, and back cannot follow.
 * Columns of wider tensors: x (T, B, .), y, c and d_y (T, B, .), the states before h0 and c0 (B, .), and d_h and d_c
 * (B, .), which come in as gradients of the last state and leave as those of the one before the first step. panels: room
 * for the weight rearranged, 4h (h rounded up to 16) numbers; x_panels: the same for the weight of the inputs, h units by
 * as many inputs. Forward does without either. */
typedef struct {
  const float *weight, *bias, *x, *x_weight, *h0, *c0, *d_y;
  float *panels, *x_panels, *gates, *y, *c, *d_pre, *d_h, *d_c;
  int32_t width, inputs, reverse, unused;
} Strand;

/* c_step is 0 where c is one row per sequence, the latest. Strides are those from one sequence to the next. */
typedef struct {
  const Strand *strand;
  int32_t strands, steps, batch, x_stride, y_stride, c_step, state_stride, held;
} Side;

static inline size_t tiles(const Strand *s) { return ((size_t)s->width + TILE - 1) / TILE; }

/* Something done for the units first <= u < last of one LSTM, at time step t as it reads. */
typedef void Act(const Side *side, const Strand *s, size_t t, size_t first, size_t last);

/* This thread's units of all LSTMs. */
static void each(Act *act, const Side *side, size_t t, size_t me, size_t all) {
  size_t total = 0, start = 0;
  for (int n = 0; n < side->strands; n++) total += tiles(side->strand + n);
  size_t from = total * me / all, to = total * (me + 1) / all;
  for (int n = 0; n < side->strands; n++) {
    const Strand *s = side->strand + n;
    size_t end = start + tiles(s), a = from > start ? from : start, b = least(to, end);
    if (a < b) act(side, s, t, (a - start) * TILE, least((b - start) * TILE, (size_t)s->width));
    start = end;
  }
}

/* ---- Forward ---- */

/* The rows of all four gates that belong to these units. */
static void gates_of(const Product *p, size_t width, size_t first, size_t last) {
  for (size_t gate = 0; gate < 4; gate++) along(p, gate * width + first, gate * width + last);
}

/* Where a step stands in x and y, the one read before it, and where it stands in the gates. */
typedef struct {
  size_t at, before, slot;
} Moment;

static Moment moment(const Side *side, const Strand *s, size_t t) {
  size_t last = (size_t)side->steps - 1, held = (size_t)side->held, first = t / held * held;
  if (s->reverse) return (Moment){last - t, last - t + 1, least(held, last + 1 - first) - 1 - (t - first)};
  return (Moment){t, t - 1, t - first};
}

/* out += a W' of all four gates, or out = a W' without a base. */
static void four_gates(Rows rows, const float *panels, size_t inner, size_t width, size_t first, size_t last) {
  size_t size = (width + TILE - 1) / TILE * TILE * inner;
  for (size_t gate = 0; gate < 4; gate++, rows.out += width) {
    if (gate && rows.base) rows.base += width;
    through_panels(&rows, panels + gate * size, inner, first, last);
  }
}

/* What the inputs of the steps from t on give that are held together, without the bias. */
static void project(const Side *side, const Strand *s, size_t t, size_t first, size_t last) {
  size_t width = (size_t)s->width, inputs = (size_t)s->inputs, batch = (size_t)side->batch;
  size_t steps = least((size_t)side->held, (size_t)side->steps - t), wide = (size_t)side->x_stride;
  const float *x = s->x + moment(side, s, s->reverse ? t + steps - 1 : t).at * batch * wide;
  if (s->x_panels) {
    Rows rows = {x, NULL, s->gates, steps * batch, wide, 0, 4 * width};
    four_gates(rows, s->x_panels, inputs, width, first, last);
  } else {
    Product p = {s->x_weight, x, NULL, s->gates, steps * batch, 4 * width, inputs, wide, 0, 4 * width};
    gates_of(&p, width, first, last);
  }
}

/* Rearranges the rows of a weight (4h, inner) that belong to these units; one panel per gate and 16 units. */
static void into_panels(const float *weight, float *panels, size_t inner, size_t width, size_t first, size_t last) {
  size_t size = (width + TILE - 1) / TILE * TILE * inner;
  for (size_t gate = 0; gate < 4; gate++)
    for (size_t u = first; u < last; u += 4) {
      const float *in = weight + (gate * width + u) * inner;
      float *out = panels + gate * size + u / TILE * TILE * inner + u % TILE;
      size_t k = 0, rows = least(4, last - u);
      if (rows == 4)
        for (; k + 4 <= inner; k += 4) square(in + k, inner, out + k * TILE, TILE);
      for (; k < inner; k++)
        for (size_t i = 0; i < 4; i++) out[k * TILE + i] = i < rows ? in[i * inner + k] : 0;
    }
}

static void arrange(const Side *side, const Strand *s, size_t t, size_t first, size_t last) {
  size_t width = (size_t)s->width;
  (void)side, (void)t;
  if (s->panels) into_panels(s->weight, s->panels, width, width, first, last);
  if (s->x_panels) into_panels(s->x_weight, s->x_panels, (size_t)s->inputs, width, first, last);
}

/* Units of one sequence: opens the gates. */
static void open_gates(float *restrict i, float *restrict f, float *restrict g, float *restrict o,
                       const float *restrict bias, size_t width, size_t units) {
  for (size_t j = 0; j < units; j++) i[j] = sigmoid(i[j] + bias[j]);
  for (size_t j = 0; j < units; j++) f[j] = sigmoid(f[j] + bias[width + j]);
  for (size_t j = 0; j < units; j++) g[j] = hyperbolic(g[j] + bias[2 * width + j]);
  for (size_t j = 0; j < units; j++) o[j] = sigmoid(o[j] + bias[3 * width + j]);
}

/* c may be the state before. */
static void write_state(const float *restrict gates, const float *before, float *c, float *restrict y, size_t width,
                        size_t units) {
  const float *f = gates + width, *g = f + width, *o = g + width;
  for (size_t j = 0; j < units; j++) c[j] = f[j] * before[j] + gates[j] * g[j];
  for (size_t j = 0; j < units; j++) y[j] = o[j] * hyperbolic(c[j]);
}

/* gates += W h, h in rows `stride` apart. */
static void feed_back(const Side *side, const Strand *s, float *gates, const float *h, size_t stride, size_t first,
                      size_t last) {
  size_t n = (size_t)s->width, batch = (size_t)side->batch;
  if (!s->panels) {
    Product p = {s->weight, h, gates, gates, batch, 4 * n, n, stride, 4 * n, 4 * n};
    gates_of(&p, n, first, last);
  } else {
    Rows rows = {h, gates, gates, batch, stride, 4 * n, 4 * n};
    four_gates(rows, s->panels, n, n, first, last);
  }
}

static void step(const Side *side, const Strand *s, size_t t, size_t first, size_t last) {
  size_t width = (size_t)s->width, batch = (size_t)side->batch, wide = (size_t)side->y_stride;
  size_t c_step = (size_t)side->c_step, stride = t ? wide : (size_t)side->state_stride;
  Moment m = moment(side, s, t);
  const float *h = t ? s->y + m.before * batch * wide : s->h0, *c = t ? s->c + m.before * c_step : s->c0;
  float *gates = s->gates + m.slot * batch * 4 * width, *y = s->y + m.at * batch * wide, *after = s->c + m.at * c_step;
  feed_back(side, s, gates, h, stride, first, last);
  for (size_t r = 0; r < batch; r++) {
    float *row = gates + r * 4 * width + first;
    open_gates(row, row + width, row + 2 * width, row + 3 * width, s->bias + first, width, last - first);
    write_state(row, c + r * stride + first, after + r * wide + first, y + r * wide + first, width, last - first);
  }
}

static void forward(const Side *side, size_t me, size_t all) {
  each(arrange, side, 0, me, all);
  for (size_t t = 0; t < (size_t)side->steps; t++) {
    if (side->strand->x && t % (size_t)side->held == 0) each(project, side, t, me, all);
    each(step, side, t, me, all);
    WAIT
  }
}

/* Weights (12 MiB) of the LSTMs that are read at the same time: what the cache that threads share keeps from step to step.
 * One after the other, 400 -> 3 x 575 takes 0.7 times as long as all at once (AMD EPYC, 32 MiB, two other programs). */
#define TOGETHER_UP_TO (3 << 20)

/* The end of the LSTMs from `n` on that are read at the same time: all in a single step, else at least one. */
static int some_from(const Side *side, int n) {
  size_t weights = 0;
  int end = n;
  for (; end < side->strands; end++) {
    const Strand *s = side->strand + end;
    weights += 4 * (size_t)s->width * (size_t)(s->width + s->inputs);
    if (side->steps > 1 && end > n && weights > TOGETHER_UP_TO) break;
  }
  return end;
}

static void forward_some(const Side *side, size_t me, size_t all) {
  for (int n = 0, end; n < side->strands; n = end) {
    Side some = *side;
    end = some_from(side, n);
    some.strand += n, some.strands = end - n;
    forward(&some, me, all);
  }
}

/* ---- Back ---- */

/* Rearranges the columns of W that belong to these units; one panel per 16 of them. */
static void arrange_turned(const Side *side, const Strand *s, size_t t, size_t first, size_t last) {
  size_t n = (size_t)s->width;
  (void)side, (void)t;
  for (size_t u = first; u < last; u += TILE) {
    size_t valid = least(TILE, last - u);
    float *out = s->panels + u * 4 * n;
    for (size_t k = 0; k < 4 * n; k++, out += TILE) {
      memcpy(out, s->weight + k * n + u, valid * sizeof(float));
      memset(out + valid, 0, (TILE - valid) * sizeof(float));
    }
  }
}

/* Units of one sequence: gradients of (h, c) -> those of the gates before they open, and of c before. */
static void close_gates(const float *restrict gates, const float *restrict before, const float *restrict c,
                        const float *restrict d_h, float *restrict d_c, float *restrict d, size_t width, size_t units) {
  const float *f = gates + width, *g = f + width, *o = g + width;
  float *d_f = d + width, *d_g = d_f + width, *d_o = d_g + width;
  for (size_t j = 0; j < units; j++) {
    float tanh_c = hyperbolic(c[j]), i = gates[j];
    float all = d_c[j] + d_h[j] * o[j] * (1.0f - tanh_c * tanh_c);
    d_o[j] = d_h[j] * tanh_c * o[j] * (1.0f - o[j]);
    d[j] = all * g[j] * i * (1.0f - i);
    d_f[j] = all * before[j] * f[j] * (1.0f - f[j]);
    d_g[j] = all * i * (1.0f - g[j] * g[j]);
    d_c[j] = all * f[j];
  }
}

static void close_step(const Side *side, const Strand *s, size_t t, size_t first, size_t last) {
  size_t width = (size_t)s->width, batch = (size_t)side->batch, wide = (size_t)side->y_stride;
  size_t state = (size_t)side->state_stride, c_step = (size_t)side->c_step;
  Moment m = moment(side, s, t);
  const float *before = t ? s->c + m.before * c_step : s->c0, *c = s->c + m.at * c_step;
  for (size_t r = 0; r < batch; r++) {
    size_t row = (m.at * batch + r) * 4 * width + first, here = r * state + first;
    close_gates(s->gates + row, before + r * (t ? wide : state) + first, c + r * wide + first, s->d_h + here,
                s->d_c + here, s->d_pre + row, width, last - first);
  }
}

/* To the h before: what comes through the product, and what its own output gets. */
static void pass_back(const Side *side, const Strand *s, size_t t, size_t first, size_t last) {
  size_t width = (size_t)s->width, batch = (size_t)side->batch, wide = (size_t)side->y_stride;
  Moment m = moment(side, s, t);
  const float *d = s->d_pre + m.at * batch * 4 * width, *base = t ? s->d_y + m.before * batch * wide : NULL;
  Rows rows = {d, base, s->d_h, batch, 4 * width, wide, (size_t)side->state_stride};
  through_panels(&rows, s->panels, 4 * width, first, last);
}

static void backward(const Side *side, size_t me, size_t all) {
  each(arrange_turned, side, 0, me, all);
  for (size_t t = (size_t)side->steps; t-- > 0;) {
    each(close_step, side, t, me, all);
    WAIT
    each(pass_back, side, t, me, all);
  }
}

/* ---- One step, for products taken elsewhere ---- */

#define MY_ROWS(n) for (size_t r = (size_t)(n) * me / all; r < (size_t)(n) * (me + 1) / all; r++)

/* pre (n, 4H), with its bias in it -> opened gates in place, and h and c after the step (n, H). */
EXPORT void sparsernn_gates_forward(float *pre, const float *before, float *h, float *c, int n, int width,
                                    int threads) {
  size_t w = (size_t)width;
  TOGETHER(threads, MY_ROWS(n) {
    float *row = pre + r * 4 * w;
    for (size_t j = 0; j < 2 * w; j++) row[j] = sigmoid(row[j]);
    for (size_t j = 2 * w; j < 3 * w; j++) row[j] = hyperbolic(row[j]);
    for (size_t j = 3 * w; j < 4 * w; j++) row[j] = sigmoid(row[j]);
    write_state(row, before + r * w, c + r * w, h + r * w, w, w);
  })
}

/* d_c comes in as the gradient of c after the step, and leaves as that of c before. */
EXPORT void sparsernn_gates_backward(const float *d_h, const float *opened, const float *before, const float *c,
                                     float *d_c, float *d_pre, int n, int width, int threads) {
  size_t w = (size_t)width;
  TOGETHER(threads, MY_ROWS(n) close_gates(opened + r * 4 * w, before + r * w, c + r * w, d_h + r * w, d_c + r * w,
                                           d_pre + r * 4 * w, w, w);)
}

EXPORT void sparsernn_lstm_forward(const Side *side, int threads) { TOGETHER(threads, forward_some(side, me, all);) }

/* The gradient of the last output is in d_h already. */
EXPORT void sparsernn_lstm_backward(const Side *side, int threads) { TOGETHER(threads, backward(side, me, all);) }
