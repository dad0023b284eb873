/* Vectors rounded to whole numbers, and sums of products with 8-bit weights that exist in blocks of 16 rows. Sums are
 * taken in whole numbers and turned into a float once, so that every kind of instruction gives the same bits. */
#if defined(__AVX512BW__) && defined(__GNUC__)
#define VNNI __attribute__((target("avx512vnni")))
static int has_vnni = 0;
__attribute__((constructor)) static void look_for_vnni(void) { has_vnni = __builtin_cpu_supports("avx512vnni") != 0; }

/* For tests: takes the instructions that multiply and add whole numbers in one, or leaves them alone. Returns whether they
 * are taken now. */
EXPORT int sparsernn_take_vnni(int wanted) {
  has_vnni = wanted && __builtin_cpu_supports("avx512vnni");
  return has_vnni;
}
#else
enum { has_vnni = 0 };

EXPORT int sparsernn_take_vnni(int wanted) {
  (void)wanted;
  return 0;
}
#endif

/* x rounded to 15 bits and a sign: products with int8 weights are then exact integer sums, and the rounding
 * (3e-5 of the largest |x|) is far below that of the weights (4e-3 of each row's largest). */
#define LEVELS 32767.0f
#define TINY 1e-37f /* smaller units count as 0: their inverse would not be finite */

/* The size of x as a whole number that is larger where x is, and largest where x is not a number. */
static inline int32_t size_of(const float *x) {
  int32_t bits;
  memcpy(&bits, x, sizeof bits);
  return bits & 0x7fffffff;
}

/* One of `LEVELS` steps up to the largest size. What is not finite has no step: NaN, and all that is multiplied by it. */
static inline float unit_for(int32_t largest) {
  float top;
  memcpy(&top, &largest, sizeof top);
  float unit = top / LEVELS;
  return largest >= 0x7f800000 ? NAN : unit > TINY ? unit : 0.0f;
}

static float unit_of(const float *x, int n) {
  int32_t top = 0;
  for (int i = 0; i < n; i++) {
    int32_t a = size_of(x + i);
    top = a > top ? a : top;
  }
  return unit_for(top);
}

static inline float inverse(float unit) { return unit > 0 ? 1.0f / unit : 0.0f; }

static inline int32_t rounded(float x, float factor) {
  float v = x * factor;
  v = v == v ? v : 0.0f;
  return (int32_t)(v + (v < 0 ? -0.5f : 0.5f));
}

/* Filled up with 0 to a multiple of 64: rows are read in whole vectors, and the weights beyond the last column (the next
 * row's, and 64 bytes of slack after the last row) then do not matter. */
static float quantise(const float *x, int n, int16_t *out) {
  float unit = unit_of(x, n), factor = inverse(unit);
  for (int i = 0; i < n; i++) out[i] = (int16_t)rounded(x[i], factor);
  for (int i = n; i < ROUND64(n); i++) out[i] = 0;
  return unit;
}

/* The same of `batch` neighbouring columns, each with its own unit, in place order; 16 is a multiple of every batch. */
static void quantise_columns(const float *x, int n, int batch, int16_t *out, float *units) {
  int32_t top[16] = {0};
  float factor[16];
  const size_t all = (size_t)n * (size_t)batch, whole = all / 16 * 16;
  for (size_t k = 0; k < whole; k += 16)
    for (int l = 0; l < 16; l++) {
      int32_t a = size_of(x + k + l);
      top[l] = a > top[l] ? a : top[l];
    }
  for (size_t k = whole; k < all; k++) {
    int32_t a = size_of(x + k);
    top[k - whole] = a > top[k - whole] ? a : top[k - whole];
  }
  for (int l = batch; l < 16; l++) top[l % batch] = top[l] > top[l % batch] ? top[l] : top[l % batch];
  for (int j = 0; j < batch; j++) units[j] = unit_for(top[j]);
  for (int l = 0; l < 16; l++) factor[l] = inverse(units[l % batch]);
  for (size_t k = 0; k < whole; k += 16)
    for (int l = 0; l < 16; l++) out[k + l] = (int16_t)rounded(x[k + l], factor[l]);
  for (size_t k = whole; k < all; k++) out[k] = (int16_t)rounded(x[k], factor[k - whole]);
}

/* 16 sums in whole numbers; 512 blocks, of at most 127 * 32767 each, fit into 32 bits. Blocks come in pairs, the two weights
 * of a row side by side, and two pairs at a time. The sums become floats, which are added to `sum` if there is `more`. */
#define BLOCKS 512
#define AHEAD 1024 /* bytes of weights to fetch early */
#if defined(__AVX512BW__)
/* sum += products of pairs of 16-bit numbers. GCC 12 surrounds the intrinsic of the one instruction with moves between
 * registers that take as long as itself. */
#define ADD_PRODUCTS(sum, w, x)                                                        \
  if (vnni)                                                                            \
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));                       \
  else                                                                                 \
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(w, x))

static inline __m512i two_blocks(const int8_t *w) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)w)); }

/* Two inputs, in every pair of a register: the first is read with its neighbour, and the second over that. */
static inline __m512i two_inputs(const int16_t *x, size_t first, size_t second) {
  int32_t pair;
  memcpy(&pair, x + first, sizeof pair);
  __m512i both = _mm512_set1_epi32(pair);
  __asm__("vpbroadcastw %1, %0%{%2%}" : "+v"(both) : "m"(x[second]), "Yk"((__mmask32)0xaaaaaaaa));
  return both;
}

static inline __attribute__((always_inline)) void integer_blocks(const int8_t *w, const uint16_t *index, int n,
                                                                 const int16_t *x, float *sum, int more, const int vnni) {
  __m512i a = _mm512_setzero_si512(), b = a;
  for (int k = 0; k < n; k += 4, w += 64) {
    uint64_t four;
    memcpy(&four, index + k, sizeof four);
    __builtin_prefetch(w + AHEAD);
    ADD_PRODUCTS(a, two_blocks(w), two_inputs(x, four & 0xffff, four >> 16 & 0xffff));
    ADD_PRODUCTS(b, two_blocks(w + 32), two_inputs(x, four >> 32 & 0xffff, four >> 48));
  }
  const __m512 all = _mm512_cvtepi32_ps(_mm512_add_epi32(a, b));
  _mm512_storeu_ps(sum, more ? _mm512_add_ps(_mm512_loadu_ps(sum), all) : all);
}
#elif defined(__AVX2__)
/* Eight rows of two blocks. */
static inline __m256i two_halves(const int8_t *w) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)w)); }

static inline void integer_blocks(const int8_t *w, const uint16_t *index, int n, const int16_t *x, float *sum, int more,
                                  const int vnni) {
  __m256i a[2] = {_mm256_setzero_si256(), a[0]}, b[2] = {a[0], a[0]};
  (void)vnni;
  for (int k = 0; k < n; k += 4)
    for (int i = 0; i < 2; i++) {
      const int8_t *own = w + (size_t)(k + 2 * i) * 16;
      const uint16_t *place = index + k + 2 * i;
      const __m256i in = _mm256_set1_epi32((int32_t)((uint16_t)x[place[0]] | (uint32_t)(uint16_t)x[place[1]] << 16));
      a[i] = _mm256_add_epi32(a[i], _mm256_madd_epi16(two_halves(own), in));
      b[i] = _mm256_add_epi32(b[i], _mm256_madd_epi16(two_halves(own + 16), in));
    }
  const __m256 top = _mm256_cvtepi32_ps(_mm256_add_epi32(a[0], a[1]));
  const __m256 bottom = _mm256_cvtepi32_ps(_mm256_add_epi32(b[0], b[1]));
  _mm256_storeu_ps(sum, more ? _mm256_add_ps(_mm256_loadu_ps(sum), top) : top);
  _mm256_storeu_ps(sum + 8, more ? _mm256_add_ps(_mm256_loadu_ps(sum + 8), bottom) : bottom);
}
#else
static inline void integer_blocks(const int8_t *w, const uint16_t *index, int n, const int16_t *x, float *sum, int more,
                                  const int vnni) {
  int32_t piece[16] = {0};
  (void)vnni;
  for (int k = 0; k < n; k += 2)
    for (int i = 0; i < 16; i++) {
      const int8_t *own = w + (size_t)k * 16 + 2 * i;
      piece[i] += own[0] * x[index[k]] + own[1] * x[index[k + 1]];
    }
  for (int i = 0; i < 16; i++) sum[i] = (more ? sum[i] : 0.0f) + (float)piece[i];
}
#endif

static inline __attribute__((always_inline)) void groups_int8(const Matrix *m, int first, int last, const float *x,
                                                              float *y, int16_t *room, const int vnni) {
  const float unit = quantise(x, m->columns, room);
  for (int g = first / 16; g * 16 < last; g++) {
    float sum[16];
    const int from = m->start[g], end = m->start[g + 1];
    for (int k = from; k == from || k < end; k += BLOCKS)
      integer_blocks((const int8_t *)m->values + (size_t)k * 16, m->index + k, MIN(BLOCKS, end - k), room, sum, k > from,
                     vnni);
    const float *scale = m->scale + g * 16;
    float *out = y + (size_t)g * 16;
    if (g * 16 + 16 <= last)
      for (int p = 0; p < 16; p += WIDTH) *(vw *)(out + p) += *(const vw *)(scale + p) * unit * *(const vw *)(sum + p);
    else
      for (int r = 0; r < last - g * 16; r++) out[r] += scale[r] * unit * sum[r];
  }
}

static void block16_int8_1(const Matrix *m, int first, int last, const float *x, float *y, int16_t *scratch) {
  groups_int8(m, first, last, x, y, scratch, 0);
}
