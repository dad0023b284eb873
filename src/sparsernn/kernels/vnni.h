/* Products of 8-bit weights by the instructions that multiply and add whole numbers in one (AVX-512 VNNI). They take the
 * place of those in sparse.c, which includes this file, where the running processor has them: the same sums, in fewer
 * instructions. */
#ifdef VNNI

/* Four rows: an instruction multiplies bytes without a sign by bytes with one, so x comes as 256 times its high byte, to
 * which 128 is added, plus its low byte; `excess` takes the 128 off again. Lanes have room for 16,000 such products of
 * four. */
VNNI static void four_sums(const int8_t *const w[4], const uint8_t *low, const uint8_t *high, int n, int64_t *sums) {
  __m512i a[4] = {_mm512_setzero_si512(), a[0], a[0], a[0]}, b[4] = {a[0], a[0], a[0], a[0]};
  for (int c = 0; c < n; c += 64) {
    __m512i l = _mm512_loadu_si512(low + c), h = _mm512_loadu_si512(high + c);
    for (int i = 0; i < 4; i++) {
      __m512i weights = _mm512_loadu_si512(w[i] + c);
      a[i] = _mm512_dpbusd_epi32(a[i], l, weights);
      b[i] = _mm512_dpbusd_epi32(b[i], h, weights);
    }
  }
  for (int i = 0; i < 4; i++) sums[i] = _mm512_reduce_add_epi32(a[i]) + 256 * (int64_t)_mm512_reduce_add_epi32(b[i]);
}

/* m->start has the sum of each row's weights. */
VNNI static void dense_int8_vnni(const Matrix *m, int first, int last, const float *x, float *y, int16_t *scratch) {
  const int n = m->columns, columns = ROUND64(n);
  uint8_t *low = (uint8_t *)scratch, *high = low + columns;
  const float unit = unit_of(x, n), factor = inverse(unit);
  for (int i = 0; i < n; i++) {
    int32_t v = rounded(x[i], factor);
    low[i] = (uint8_t)(v & 255);
    high[i] = (uint8_t)((v >> 8) + 128);
  }
  memset(low + n, 0, (size_t)(columns - n));
  memset(high + n, 0, (size_t)(columns - n));
  for (int r = first; r < last; r += 4) {
    const int8_t *w[4];
    int64_t sums[4];
    for (int i = 0; i < 4; i++) w[i] = (const int8_t *)m->values + (size_t)MIN(r + i, last - 1) * n;
    four_sums(w, low, high, columns, sums);
    for (int i = 0; i < MIN(4, last - r); i++)
      y[r + i] += m->scale[r + i] * unit * (float)(sums[i] - 256 * 128 * (int64_t)m->start[r + i]);
  }
}

VNNI static void block16_int8_vnni(const Matrix *m, int first, int last, const float *x, float *y, int16_t *scratch) {
  groups_int8(m, first, last, x, y, scratch, 1);
}

#else
#define dense_int8_vnni dense_int8_1
#define block16_int8_vnni block16_int8_1
#endif
