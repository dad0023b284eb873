"""The functions in C for weights of 4 bits, two in a byte, with a factor for each 64 columns of a row."""

from __future__ import annotations

from sparsernn.deploy.plain_c.const_tables import BLOCK
from sparsernn.kernels.group_rounding import GROUP

NIBBLE = """\
/* weight k of those that lie two in a byte */
static int32_t nibble(const uint8_t *w, uint32_t k)
{
    return (int32_t)(w[k / 2] >> (4 * (k % 2)) & 15) - 8;
}
"""
HALF = """\
/* a number of 16 bits, exactly: 10 or 11 bits times a power of two */
static float half(uint16_t bits)
{
    const uint32_t power = bits >> 10 & 31u;
    const float size = (float)((bits & 1023u) + (power > 0u ? 1024u : 0u));
    union {
        uint32_t bits;
        float value;
    } unit;
    unit.bits = ((power > 0u ? power : 1u) + 102u) << 23;
    return (bits >> 15 > 0u ? -size : size) * unit.value;
}
"""
ADD_DENSE = f"""\
/* y += W x */
static void NAME(float *y, TABLES, int32_t columns, int32_t rows, VECTOR)
{{
    uint32_t at = 0;
    for (int32_t r = 0; r < rows; ++r) {{
        float total = 0.0f;
        for (int32_t from = 0; from < columns; from += {GROUP}) {{
            const int32_t end = columns - from < {GROUP} ? columns : from + {GROUP};
            int32_t sum = 0;
            for (int32_t k = from; k < end; ++k, ++at)
                sum += nibble(w, at) * x[k];
            total += half(*scale++) * (float)sum;
        }}
        y[r] += unit * total;
    }}
}}
"""
ADD_CSR = f"""\
/* y += W x, the weights that are there row by row */
static void NAME(float *y, TABLES, int32_t columns, int32_t rows, VECTOR)
{{
    for (int32_t r = 0; r < rows; ++r) {{
        uint32_t k = start[r];
        float total = 0.0f;
        for (int32_t end = {GROUP}; end < columns + {GROUP}; end += {GROUP}) {{
            int32_t sum = 0;
            for (; k < start[r + 1] && column[k] < end; ++k)
                sum += nibble(w, k) * x[column[k]];
            total += half(*scale++) * (float)sum;
        }}
        y[r] += unit * total;
    }}
}}
"""
ADD_BLOCKS = f"""\
/* y += W x, in blocks of {BLOCK} rows of a column */
static void NAME(float *y, TABLES, int32_t columns, int32_t rows, VECTOR)
{{
    const int32_t groups = (columns + {GROUP - 1}) / {GROUP};
    for (int32_t r = 0; r < rows; r += {BLOCK}) {{
        const int32_t count = rows - r < {BLOCK} ? rows - r : {BLOCK};
        uint32_t k = start[r / {BLOCK}];
        float total[{BLOCK}] = {{0.0f}};
        for (int32_t g = 0; g < groups; ++g) {{
            int32_t sum[{BLOCK}] = {{0}};
            for (; k < start[r / {BLOCK} + 1] && column[k] / {GROUP} == g; ++k)
                for (int32_t j = 0; j < {BLOCK}; ++j)
                    sum[j] += nibble(w, {BLOCK} * k + (uint32_t)j) * x[column[k]];
            for (int32_t j = 0; j < count; ++j)
                total[j] += half(scale[(size_t)(r + j) * (size_t)groups + (size_t)g]) * (float)sum[j];
        }}
        for (int32_t j = 0; j < count; ++j)
            y[r + j] += unit * total[j];
    }}
}}
"""
ADD_BITS = f"""\
/* y += W x, the weights that are there row by row, a bit for each position */
static void NAME(float *y, TABLES, int32_t columns, int32_t rows, VECTOR)
{{
    for (int32_t r = 0; r < rows; ++r) {{
        uint32_t at = start[r];
        float total = 0.0f;
        for (int32_t from = 0; from < columns; from += {GROUP}) {{
            const int32_t end = columns - from < {GROUP} ? columns : from + {GROUP};
            int32_t sum = 0;
            for (int32_t k = from; k < end; ++k)
                if (bits[k / 8] >> (k % 8) & 1)
                    sum += nibble(w, at++) * x[k];
            total += half(*scale++) * (float)sum;
        }}
        bits += (columns + 7) / 8;
        y[r] += unit * total;
    }}
}}
"""
_ROW_BEGINS = f"    scale += (size_t)((columns + {GROUP - 1}) / {GROUP}) * (size_t)r;\n"
ROW_DENSE = f"""\
/* y = row r of W */
static void NAME(float *y, TABLES, int32_t columns, int32_t r)
{{
{_ROW_BEGINS}    for (int32_t k = 0; k < columns; ++k)
        y[k] = half(scale[k / {GROUP}]) * (float)nibble(w, (uint32_t)columns * (uint32_t)r + (uint32_t)k);
}}
"""
ROW_CSR = f"""\
/* y += row r of W */
static void NAME(float *y, TABLES, int32_t columns, int32_t r)
{{
{_ROW_BEGINS}    for (uint32_t k = start[r]; k < start[r + 1]; ++k)
        y[column[k]] = half(scale[column[k] / {GROUP}]) * (float)nibble(w, k);
}}
"""
ROW_BLOCKS = f"""\
/* y += row r of W */
static void NAME(float *y, TABLES, int32_t columns, int32_t r)
{{
{_ROW_BEGINS}    for (uint32_t k = start[r / {BLOCK}]; k < start[r / {BLOCK} + 1]; ++k)
        y[column[k]] = half(scale[column[k] / {GROUP}]) * (float)nibble(w, {BLOCK} * k + (uint32_t)(r % {BLOCK}));
}}
"""
ROW_BITS = f"""\
/* y += row r of W */
static void NAME(float *y, TABLES, int32_t columns, int32_t r)
{{
    uint32_t at = start[r];
    bits += (size_t)((columns + 7) / 8) * (size_t)r;
{_ROW_BEGINS}    for (int32_t k = 0; k < columns; ++k)
        if (bits[k / 8] >> (k % 8) & 1) {{
            y[k] = half(scale[k / {GROUP}]) * (float)nibble(w, at);
            ++at;
        }}
}}
"""
ADD_OF_NIBBLES = {"dense": ADD_DENSE, "csr": ADD_CSR, "blocks": ADD_BLOCKS, "bits": ADD_BITS}
ROW_OF_NIBBLES = {"dense": ROW_DENSE, "csr": ROW_CSR, "blocks": ROW_BLOCKS, "bits": ROW_BITS}
"""Layout -> the function, as in `c_functions`."""
