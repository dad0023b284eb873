/* Products of 8-bit weights in blocks of 16 rows with BATCH columns, in whole numbers; batched.h includes this file. Two
 * blocks at a time: an instruction multiplies pairs of 16-bit numbers and adds the two products, 16 rows at once. */
#define UNTIL_BATCH _Pragma("GCC unroll 16") for (int j = 0; j < BATCH; j++)

#if defined(__AVX2__)
/* The inputs of up to NEAR blocks, two blocks' numbers side by side for each column; nothing beyond the last block, up to
 * a multiple of four. Returns that multiple. */
static inline int NAME(pairs)(const int16_t *x, const uint16_t *index, int n, int16_t (*out)[2 * BATCH]) {
  static const int16_t nothing[BATCH] = {0};
  const int all = (n + 3) / 4 * 4;
  for (int k = 0; k < all; k += 2) {
    const int16_t *a = k < n ? x + (size_t)index[k] * BATCH : nothing;
    const int16_t *b = k + 1 < n ? x + (size_t)index[k + 1] * BATCH : nothing;
    __m128i *to = (__m128i *)(void *)out[k / 2];
#if BATCH == 4
    _mm_storeu_si128(to, _mm_unpacklo_epi16(_mm_loadl_epi64((const __m128i *)a), _mm_loadl_epi64((const __m128i *)b)));
#else
    for (int j = 0; j < BATCH; j += 8, to += 2) {
      __m128i one = _mm_loadu_si128((const __m128i *)(a + j)), other = _mm_loadu_si128((const __m128i *)(b + j));
      _mm_storeu_si128(to, _mm_unpacklo_epi16(one, other));
      _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(one, other));
    }
#endif
  }
  return all;
}
#endif

/* sum (BATCH, 16) = the sums of `n` blocks, at most BLOCKS; x (columns, BATCH). Up to three blocks more are read. */
#if defined(__AVX512BW__)
/* Sums take turns in a and b: an addition is not done yet when the next column's begins. */
#define SUMS(name, WITH, DOT, B)                                                                                 \
  WITH static void NAME(name)(const int8_t *w, const uint16_t *index, int n, const int16_t *x, int32_t *sum) { \
    const __m512i order = _mm512_loadu_si512(by_turns);                                                        \
    __m512i a[BATCH], b[BATCH];                                                                                \
    int16_t in[NEAR / 2][2 * BATCH];                                                                           \
    UNTIL_BATCH a[j] = b[j] = _mm512_setzero_si512();                                                          \
    for (int from = 0; from < n; from += NEAR) {                                                               \
      const int count = NAME(pairs)(x, index + from, MIN(NEAR, n - from), in);                                 \
      const int8_t *own = w + (size_t)from * 16;                                                               \
      for (int k = 0; k < count; k += 4, own += 64) {                                                          \
        const int32_t *v = (const int32_t *)(const void *)in[k / 2];                                           \
        __builtin_prefetch(own + AHEAD * 16);                                                                  \
        __m512i one = _mm512_permutexvar_epi16(order, _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)own))); \
        __m512i two = _mm512_permutexvar_epi16(order, _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(own + 32)))); \
        UNTIL_BATCH DOT(a[j], one, v + j);                                                                     \
        UNTIL_BATCH DOT(B[j], two, v + BATCH + j);                                                             \
      }                                                                                                        \
    }                                                                                                          \
    UNTIL_BATCH _mm512_storeu_si512(sum + j * 16, _mm512_add_epi32(a[j], b[j]));                               \
  }
#if BATCH == 16 /* there are no registers for two sets */
SUMS(sums, , ADD_PRODUCTS, a)
SUMS(sums_vnni, VNNI, ADD_PRODUCTS_VNNI, a)
#else
SUMS(sums, , ADD_PRODUCTS, b)
SUMS(sums_vnni, VNNI, ADD_PRODUCTS_VNNI, b)
#endif
#elif defined(__AVX2__)
static void NAME(sums)(const int8_t *w, const uint16_t *index, int n, const int16_t *x, int32_t *sum) {
  int16_t in[NEAR / 2][2 * BATCH];
  memset(sum, 0, BATCH * 16 * sizeof *sum);
  for (int from = 0; from < n; from += NEAR) {
    const int count = NAME(pairs)(x, index + from, MIN(NEAR, n - from), in);
    for (int c = 0; c < BATCH; c += 4) {
      __m256i top[4], bottom[4];
      _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
        top[j] = _mm256_loadu_si256((const __m256i *)(sum + (c + j) * 16));
        bottom[j] = _mm256_loadu_si256((const __m256i *)(sum + (c + j) * 16 + 8));
      }
      for (int k = 0; k < count; k += 2) {
        const int32_t *v = (const int32_t *)(const void *)in[k / 2] + c;
        const __m128i *own = (const __m128i *)(w + (size_t)(from + k) * 16);
        __m128i one = _mm_loadu_si128(own), two = _mm_loadu_si128(own + 1);
        __m256i low = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(one, two));
        __m256i high = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(one, two));
        _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
          __m256i both = _mm256_set1_epi32(v[j]);
          top[j] = _mm256_add_epi32(top[j], _mm256_madd_epi16(low, both));
          bottom[j] = _mm256_add_epi32(bottom[j], _mm256_madd_epi16(high, both));
        }
      }
      _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
        _mm256_storeu_si256((__m256i *)(sum + (c + j) * 16), top[j]);
        _mm256_storeu_si256((__m256i *)(sum + (c + j) * 16 + 8), bottom[j]);
      }
    }
  }
}
#else
static void NAME(sums)(const int8_t *w, const uint16_t *index, int n, const int16_t *x, int32_t *sum) {
  memset(sum, 0, BATCH * 16 * sizeof *sum);
  for (int k = 0; k < n; k++) {
    const int16_t *in = x + (size_t)index[k] * BATCH;
    int16_t wide[16];
    for (int i = 0; i < 16; i++) wide[i] = w[(size_t)k * 16 + i];
    for (int j = 0; j < BATCH; j++)
      for (int i = 0; i < 16; i++) sum[j * 16 + i] += (int32_t)wide[i] * in[j];
  }
}
#endif

/* y (16, BATCH) += scale unit sum for the first of its rows; sum (BATCH, 16). In fours from end to end: what was written
 * in fours and is read in eights waits for the cache. */
static inline void NAME(add_sums)(const float *sum, const float *scale, const float *unit, int rows, float *y) {
  for (int r = 0; r < rows; r += 4)
    for (int j = 0; j < BATCH; j += 4) {
      float turned[16];
      square(sum + j * 16 + r, 16, turned, 4);
      for (int i = 0; i < MIN(4, rows - r); i++)
        *(v4 *)(y + (size_t)(r + i) * BATCH + j) += scale[r + i] * *(const v4 *)(unit + j) * *(const v4 *)(turned + 4 * i);
    }
}

static inline __attribute__((always_inline)) void NAME(groups)(const Matrix *m, int first, int last, const float *x,
                                                               float *y, int16_t *room, Sums *sums) {
  float unit[BATCH];
  quantise_columns(x, m->columns, BATCH, room, unit);
  for (int g = first / 16; g * 16 < last; g++) {
    float sum[BATCH * 16] = {0};
    for (int k = m->start[g]; k < m->start[g + 1]; k += BLOCKS) {
      int32_t piece[BATCH * 16];
      sums((const int8_t *)m->values + (size_t)k * 16, m->index + k, MIN(BLOCKS, m->start[g + 1] - k), room, piece);
      for (int i = 0; i < BATCH * 16; i++) sum[i] += (float)piece[i];
    }
    NAME(add_sums)(sum, m->scale + g * 16, unit, MIN(16, last - g * 16), y + (size_t)g * 16 * BATCH);
  }
}

static void NAME(block16_int8)(const Matrix *m, int first, int last, const float *x, float *y, int16_t *scratch) {
#ifdef VNNI
  if (has_vnni) {
    NAME(groups)(m, first, last, x, y, scratch, NAME(sums_vnni));
    return;
  }
#endif
  NAME(groups)(m, first, last, x, y, scratch, NAME(sums));
}
#undef UNTIL_BATCH
#undef SUMS
