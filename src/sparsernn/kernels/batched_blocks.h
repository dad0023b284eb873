/* Products of 8-bit weights in blocks of 16 rows with BATCH columns, in whole numbers; batched.h includes this file. Two
 * blocks at a time: an instruction multiplies pairs of 16-bit numbers and adds the two products.
 *
 * sum (BATCH, 16) = the sums of `n` blocks, at most BLOCKS, or += them if there is `more`; x (columns, BATCH). With AVX-512,
 * and not `by_text`, sum is (16, BATCH). */
#define UNTIL_BATCH _Pragma("GCC unroll 16") for (int j = 0; j < BATCH; j++)

#if defined(__AVX512BW__)
#if BATCH == 4
#define EIGHTS 1 /* registers that the inputs of a column are read into */
#define INPUTS(x) _mm512_set1_epi64(*(const long long *)(const void *)(x))
#else
#define EIGHTS (BATCH / 8)
#define INPUTS(x) _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)(x)))
#endif

/* sum += products of two blocks. Each quarter of a register multiplies four rows with four texts, so that eight texts take
 * two registers of inputs and four of weights: an input for every text and every row would have to be read by itself. Sum
 * 4 * f + i: rows i, 4 + i, 8 + i and 12 + i of the texts 4 f to 4 f + 3. */
static inline __attribute__((always_inline)) void NAME(add_two)(__m512i sum[BATCH], const int8_t *w, const int16_t *x,
                                                                const uint16_t *index, const int vnni) {
  const __m512i both = two_blocks(w);
  const __m512i own[4] = {_mm512_shuffle_epi32(both, 0x00), _mm512_shuffle_epi32(both, 0x55),
                          _mm512_shuffle_epi32(both, 0xaa), _mm512_shuffle_epi32(both, 0xff)};
  _Pragma("GCC unroll 2") for (int e = 0; e < EIGHTS; e++) {
    __m512i a = INPUTS(x + (size_t)index[0] * BATCH + 8 * e), b = INPUTS(x + (size_t)index[1] * BATCH + 8 * e);
    __m512i in[2] = {_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b)};
    _Pragma("GCC unroll 2") for (int f = 0; f < (BATCH == 4 ? 1 : 2); f++)
      _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)
        ADD_PRODUCTS(sum[8 * e + 4 * f + i], own[i], in[f]);
  }
}

/* Four sums as above, of neighbouring i -> all rows of one text each. */
static inline void NAME(turn)(__m512i *a) {
  __m512i low = _mm512_unpacklo_epi32(a[0], a[1]), high = _mm512_unpackhi_epi32(a[0], a[1]);
  __m512i other_low = _mm512_unpacklo_epi32(a[2], a[3]), other_high = _mm512_unpackhi_epi32(a[2], a[3]);
  a[0] = _mm512_unpacklo_epi64(low, other_low), a[1] = _mm512_unpackhi_epi64(low, other_low);
  a[2] = _mm512_unpacklo_epi64(high, other_high), a[3] = _mm512_unpackhi_epi64(high, other_high);
}

/* The quarters of four registers: first all first ones, then all second ones ... */
static inline void NAME(regroup)(__m512i a, __m512i b, __m512i c, __m512i d, __m512i made[4]) {
  __m512i ab = _mm512_shuffle_i32x4(a, b, 0x44), cd = _mm512_shuffle_i32x4(c, d, 0x44);
  made[0] = _mm512_shuffle_i32x4(ab, cd, 0x88), made[1] = _mm512_shuffle_i32x4(ab, cd, 0xdd);
  ab = _mm512_shuffle_i32x4(a, b, 0xee), cd = _mm512_shuffle_i32x4(c, d, 0xee);
  made[2] = _mm512_shuffle_i32x4(ab, cd, 0x88), made[3] = _mm512_shuffle_i32x4(ab, cd, 0xdd);
}

static inline void NAME(keep)(float *sum, __m512i whole, int more) {
  __m512 all = _mm512_cvtepi32_ps(whole);
  _mm512_storeu_ps(sum, more ? _mm512_add_ps(_mm512_loadu_ps(sum), all) : all);
}

/* Sums take turns in a and b, where there are registers for both: an addition is not done yet when the next one begins. */
static inline __attribute__((always_inline)) void NAME(sums)(const int8_t *w, const uint16_t *index, int n,
                                                             const int16_t *x, float *sum, int more, int by_text,
                                                             const int vnni) {
  __m512i a[BATCH], b[BATCH];
  UNTIL_BATCH a[j] = b[j] = _mm512_setzero_si512();
  for (int k = 0; k < n; k += 4, w += 64, index += 4) {
    __builtin_prefetch(w + AHEAD);
    NAME(add_two)(a, w, x, index, vnni);
    NAME(add_two)(BATCH == 16 ? a : b, w + 32, x, index + 2, vnni);
  }
  if (BATCH < 16) UNTIL_BATCH a[j] = _mm512_add_epi32(a[j], b[j]);
  if (by_text) {
    _Pragma("GCC unroll 4") for (int j = 0; j < BATCH; j += 4) NAME(turn)(a + j);
    UNTIL_BATCH NAME(keep)(sum + j * 16, a[j], more);
    return;
  }
  _Pragma("GCC unroll 4") for (int q = 0; q < BATCH; q += 4) { /* sum 4 f + i of row 4 l + i stands at i * BATCH / 4 + f */
#define FROM(k) a[(q + k) % (BATCH / 4) * 4 + (q + k) / (BATCH / 4)]
    __m512i made[4];
    NAME(regroup)(FROM(0), FROM(1), FROM(2), FROM(3), made);
    _Pragma("GCC unroll 4") for (int l = 0; l < 4; l++) NAME(keep)(sum + 4 * l * BATCH + 4 * q, made[l], more);
#undef FROM
  }
}

/* y (16, BATCH) += scale unit sum for the first of its rows; sum (16, BATCH). */
static inline void NAME(add_sums)(const float *sum, const float *scale, const float *unit, int rows, float *y) {
  for (int r = 0; r < rows; r++) EACH_PART PART(y, r) += scale[r] * CONST_PART(unit, 0) * CONST_PART(sum, r);
}
#undef EIGHTS
#undef INPUTS
#elif defined(__AVX2__)
/* The inputs of two blocks side by side, for four texts. */
static inline __m128i NAME(two)(const int16_t *x, const uint16_t *index) {
  const __m128i *a = (const __m128i *)(const void *)(x + (size_t)index[0] * BATCH);
  const __m128i *b = (const __m128i *)(const void *)(x + (size_t)index[1] * BATCH);
  return _mm_unpacklo_epi16(_mm_loadl_epi64(a), _mm_loadl_epi64(b));
}

/* Four texts at a time: their sums stay in registers. */
static inline void NAME(sums)(const int8_t *w, const uint16_t *index, int n, const int16_t *x, float *sum, int more,
                              int by_text, const int vnni) {
  (void)vnni, (void)by_text;
  for (int c = 0; c < BATCH; c += 4) {
    __m256i top[4] = {_mm256_setzero_si256(), top[0], top[0], top[0]}, bottom[4] = {top[0], top[0], top[0], top[0]};
    for (int k = 0; k < n; k += 2) {
      const __m256i high = two_halves(w + (size_t)k * 16), low = two_halves(w + (size_t)k * 16 + 16);
      int32_t in[4];
      _mm_storeu_si128((__m128i *)(void *)in, NAME(two)(x + c, index + k));
      _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
        __m256i both = _mm256_set1_epi32(in[j]);
        top[j] = _mm256_add_epi32(top[j], _mm256_madd_epi16(high, both));
        bottom[j] = _mm256_add_epi32(bottom[j], _mm256_madd_epi16(low, both));
      }
    }
    _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
      float *to = sum + (c + j) * 16;
      __m256 first = _mm256_cvtepi32_ps(top[j]), last = _mm256_cvtepi32_ps(bottom[j]);
      _mm256_storeu_ps(to, more ? _mm256_add_ps(_mm256_loadu_ps(to), first) : first);
      _mm256_storeu_ps(to + 8, more ? _mm256_add_ps(_mm256_loadu_ps(to + 8), last) : last);
    }
  }
}
#else
static inline void NAME(sums)(const int8_t *w, const uint16_t *index, int n, const int16_t *x, float *sum, int more,
                              int by_text, const int vnni) {
  int32_t piece[BATCH * 16] = {0};
  (void)vnni, (void)by_text;
  for (int k = 0; k < n; k += 2) {
    const int16_t *a = x + (size_t)index[k] * BATCH, *b = x + (size_t)index[k + 1] * BATCH;
    int16_t first[16], second[16];
    for (int i = 0; i < 16; i++) {
      first[i] = w[(size_t)k * 16 + 2 * i];
      second[i] = w[(size_t)k * 16 + 2 * i + 1];
    }
    for (int j = 0; j < BATCH; j++)
      for (int i = 0; i < 16; i++) piece[j * 16 + i] += (int32_t)first[i] * a[j] + (int32_t)second[i] * b[j];
  }
  for (int i = 0; i < BATCH * 16; i++) sum[i] = (more ? sum[i] : 0.0f) + (float)piece[i];
}
#endif

#ifndef __AVX512BW__
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

#endif

/* The first `rows` of a group go out text after text. */
static inline void NAME(put_sums)(const float *sum, const float *scale, const float *unit, int rows, const Answers *to,
                                  int row) {
  const float *bias = to->bias + row;
  for (int j = 0; j < to->used; j++, sum += 16) {
    float *y = to->y + (size_t)j * to->stride + row;
    if (rows == 16)
      for (int p = 0; p < 16; p += WIDTH)
        *(vw *)(y + p) = *(const vw *)(bias + p) + *(const vw *)(scale + p) * unit[j] * *(const vw *)(sum + p);
    else
      for (int r = 0; r < rows; r++) y[r] = bias[r] + scale[r] * unit[j] * sum[r];
  }
}

/* Added to y (rows, BATCH), or put out. */
static inline __attribute__((always_inline)) void NAME(groups)(const Matrix *m, int first, int last, const float *x,
                                                               float *y, const Answers *to, int16_t *room,
                                                               const int vnni) {
  float unit[BATCH];
  quantise_columns(x, m->columns, BATCH, room, unit);
  for (int g = first / 16; g * 16 < last; g++) {
    float sum[BATCH * 16];
    const int from = m->start[g], end = m->start[g + 1], rows = MIN(16, last - g * 16);
    for (int k = from; k == from || k < end; k += BLOCKS)
      NAME(sums)((const int8_t *)m->values + (size_t)k * 16, m->index + k, MIN(BLOCKS, end - k), room, sum, k > from,
                 to != NULL, vnni);
    if (to)
      NAME(put_sums)(sum, m->scale + g * 16, unit, rows, to, g * 16);
    else
      NAME(add_sums)(sum, m->scale + g * 16, unit, rows, y + (size_t)g * 16 * BATCH);
  }
}

#ifdef VNNI
VNNI static void NAME(groups_vnni)(const Matrix *m, int first, int last, const float *x, float *y, const Answers *to,
                                   int16_t *room) {
  NAME(groups)(m, first, last, x, y, to, room, 1);
}
#endif

static void NAME(blocks_int8)(const Matrix *m, int first, int last, const float *x, float *y, const Answers *to,
                              int16_t *room) {
#ifdef VNNI
  if (has_vnni) {
    NAME(groups_vnni)(m, first, last, x, y, to, room);
    return;
  }
#endif
  NAME(groups)(m, first, last, x, y, to, room, 0);
}
#undef UNTIL_BATCH
