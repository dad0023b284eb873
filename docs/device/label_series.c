/* The number of the likeliest label of each series in series.txt: a line of numbers per step, an empty line after each
 * series. */
#include <stdio.h>
#include <stdlib.h>

#include "model.h"

static model_state state;

static int likeliest(const float *y)
{
    int best = 0;
    for (int k = 1; k < MODEL_OUTPUTS; ++k)
        if (y[k] > y[best])
            best = k;
    return best;
}

int main(void)
{
    static char line[16 * MODEL_COLUMNS + 2];
    float raw[MODEL_COLUMNS], x[MODEL_INPUTS], y[MODEL_OUTPUTS] = {0};
    FILE *file = fopen("series.txt", "r");
    if (!file)
        return 1;
    model_reset(&state);
    while (fgets(line, sizeof line, file)) {
        char *at = line;
        if (line[0] == '\n') {
            printf("%d\n", likeliest(y));
            model_reset(&state);
            continue;
        }
        for (int k = 0; k < MODEL_COLUMNS; ++k)
            raw[k] = strtof(at, &at);
        model_scale(raw, x);
        model_step(&state, x, y);
    }
    return 0;
}
