/* The compiled functions on random shapes, beside plain references; built with sanitizers by `make sanitize`.
 *
 * Every buffer is as large as it has to be and no larger, so a read or a write outside is seen. Allocations are made to
 * fail one after another, so what is left behind then is seen too. The first argument is the seed.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../service/imaging/native.h"

enum { LABEL_ROUNDS = 500, HALF_ROUNDS = 150, RESIZE_ROUNDS = 700, MOST_PIXELS = 40000, MOST_WORK = 4000000 };
enum { CHANNELS = 3, PRECISION = 22 };

typedef struct {
    int64_t classes, height, width, new_height, new_width;
} shape;

/* Allocations until one fails; negative: none does. The linker sends those of all files here (--wrap). */
static int64_t allocations_left = -1;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);

static int allocation_fails(void) { return allocations_left >= 0 && allocations_left-- == 0; }

void *__wrap_malloc(size_t size) { return allocation_fails() ? NULL : __real_malloc(size); }

void *__wrap_calloc(size_t count, size_t size) { return allocation_fails() ? NULL : __real_calloc(count, size); }

/* xorshift64*: the same numbers on every machine. */
static uint64_t state;

static int64_t random_below(int64_t limit) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (int64_t)((state * 2685821657736338717ULL >> 33) % (uint64_t)limit);
}

static void require(int holds, const char *rule, const shape *at) {
    if (holds) return;
    fprintf(stderr, "%s: %lld classes, %lldx%lld to %lldx%lld\n", rule, (long long)at->classes, (long long)at->height,
            (long long)at->width, (long long)at->new_height, (long long)at->new_width);
    exit(1);
}

static void *array(int64_t count, size_t size) {
    void *memory = calloc((size_t)count, size);
    if (memory == NULL) exit(2);
    return memory;
}

/* One pixel, a few, some odd number, or many. */
static int64_t random_side(void) {
    switch (random_below(6)) {
    case 0: return 1;
    case 1: return 2 + random_below(4);
    case 2: return 1000 + random_below(3000);
    case 3: return 2 * random_below(64) + 1;
    default: return 1 + random_below(150);
    }
}

/* Work is what the reference does: all classes at all pixels. */
static shape random_shape(int64_t most_classes) {
    shape at;
    do {
        at.classes = 1 + random_below(random_below(2) ? most_classes : most_classes / 8 + 1);
        at.height = random_side();
        at.width = random_side();
        at.new_height = random_side();
        at.new_width = random_side();
    } while (at.height * at.width > MOST_PIXELS || at.new_height * at.new_width > MOST_PIXELS ||
             at.classes * (at.height * at.width + at.new_height * at.new_width) > MOST_WORK);
    return at;
}

/* Cell before a pixel, the next cell, and the weight of that in units of 1 / (2 * to). */
static void neighbours(int64_t pixel, int64_t from, int64_t to, int64_t cells[2], int64_t *far) {
    int64_t position = (2 * pixel + 1) * from - to;
    position = position < 0 ? 0 : position;
    cells[0] = position / (2 * to);
    cells[1] = cells[0] + 1 < from ? cells[0] + 1 : cells[0];
    *far = position % (2 * to);
}

/* A class at a pixel, times 4 * new_height * new_width. Exact for whole logits below 2^24. */
static long double interpolated(const float *logits, const shape *at, int64_t k, int64_t row, int64_t column) {
    int64_t y[2], x[2], below, right;
    const float *plane = logits + k * at->height * at->width;
    neighbours(row, at->height, at->new_height, y, &below);
    neighbours(column, at->width, at->new_width, x, &right);
    long double sum = 0;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            int64_t vertical = i ? below : 2 * at->new_height - below;
            int64_t horizontal = j ? right : 2 * at->new_width - right;
            sum += (long double)(vertical * horizontal) * (long double)plane[y[i] * at->width + x[j]];
        }
    return sum;
}

/* The label is the lowest of the best classes; where logits are fractions, one as good within rounding. */
static void check_label(const float *logits, const shape *at, int64_t row, int64_t column, int label, int whole) {
    long double best = interpolated(logits, at, 0, row, column), chosen = best, largest = fabsl(best);
    int64_t winner = 0;
    for (int64_t k = 1; k < at->classes; k++) {
        long double value = interpolated(logits, at, k, row, column);
        largest = fmaxl(largest, fabsl(value));
        if (k == label) chosen = value;
        if (value > best) {
            best = value;
            winner = k;
        }
    }
    require(label < at->classes, "label_map gives a class that there is not", at);
    require(label == winner || (!whole && best - chosen <= 1e-14L * largest), "label_map gives another class", at);
}

/* Smooth logits have large regions of one class; whole ones have ties. */
static void fill_logits(float *logits, const shape *at, int whole) {
    int64_t smooth = random_below(2), span = whole ? 1 + random_below(1000) : 1 << 20;
    for (int64_t k = 0; k < at->classes; k++)
        for (int64_t y = 0; y < at->height; y++)
            for (int64_t x = 0; x < at->width; x++) {
                int64_t region = (k + 1) * (y / 5 + 2 * (x / 7)) * 7919;
                int64_t value = smooth ? region % span : random_below(2 * span) - span;
                *logits++ = whole ? (float)value : (float)value / 65537.0f;
            }
}

static void check_label_map(void) {
    shape at = random_shape(MAX_CLASSES);
    int64_t cells = at.height * at.width, pixels = at.new_height * at.new_width;
    int whole = random_below(2) == 0;
    float *logits = array(at.classes * cells, sizeof *logits);
    uint8_t *labels = array(pixels, 1);
    fill_logits(logits, &at, whole);
    int status = label_map(logits, sizeof *logits, at.classes, at.height, at.width, at.new_height, at.new_width, labels);
    require(status == OK, "label_map fails", &at);
    for (int64_t i = 0; i < pixels; i++)
        check_label(logits, &at, i / at.new_width, i % at.new_width, labels[i], whole);
    const float bad[] = {NAN, INFINITY, -INFINITY};
    logits[random_below(at.classes * cells)] = bad[random_below(3)];
    status = label_map(logits, sizeof *logits, at.classes, at.height, at.width, at.new_height, at.new_width, labels);
    require(status == NOT_FINITE, "label_map takes NaN or infinity", &at);
    free(logits);
    free(labels);
}

/* The value of a half by the format's definition; infinity for what is not finite. */
static float half_value(uint16_t half) {
    int exponent = half >> 10 & 31, fraction = half & 1023;
    float size = ldexpf((float)(exponent ? fraction + 1024 : fraction), (exponent ? exponent : 1) - 25);
    return exponent == 31 ? INFINITY : half & 0x8000 ? -size : size;
}

/* Labels of halves are those of the same values in float32; halves that are not finite are refused. */
static void check_halves(void) {
    shape at = random_shape(MAX_CLASSES);
    int64_t count = at.classes * at.height * at.width, pixels = at.new_height * at.new_width;
    uint16_t *halves = array(count, sizeof *halves);
    float *values = array(count, sizeof *values);
    uint8_t *labels = array(pixels, 1), *expected = array(pixels, 1);
    for (int64_t i = 0; i < count; i++) {
        halves[i] = (uint16_t)random_below(1 << 16);
        if ((halves[i] >> 10 & 31) == 31) halves[i] &= 0x83ff;
    }
    widen(halves, count, values);
    for (int64_t i = 0; i < count; i++) require(values[i] == half_value(halves[i]), "widen gives another value", &at);
    int status = label_map(values, 4, at.classes, at.height, at.width, at.new_height, at.new_width, expected);
    require(status == OK, "label_map fails", &at);
    status = label_map(halves, 2, at.classes, at.height, at.width, at.new_height, at.new_width, labels);
    require(status == OK && memcmp(labels, expected, (size_t)pixels) == 0, "halves give other labels", &at);
    int64_t place = random_below(count);
    halves[place] = (uint16_t)(0x7c00 | random_below(1024) | random_below(2) << 15);
    widen(halves, count, values);
    require(isinf(values[place]), "widen makes a number of infinity or NaN", &at);
    status = label_map(halves, 2, at.classes, at.height, at.width, at.new_height, at.new_width, labels);
    require(status == NOT_FINITE, "label_map takes halves that are NaN or infinity", &at);
    free(halves);
    free(values);
    free(labels);
    free(expected);
}

/* One axis of the resize: item i of line n is at source[n * step + i * stride], i < from; the same for the result. */
static void resize_lines(const uint8_t *source, uint8_t *result, int64_t lines, int64_t from, int64_t to, int64_t step,
                         int64_t new_step, int64_t stride) {
    double scale = (double)from / (double)to, support = scale > 1 ? scale : 1;
    double *weights = array(from, sizeof *weights);
    for (int64_t i = 0; i < to; i++) {
        double centre = ((double)i + 0.5) * scale, sum = 0;
        int64_t start = (int64_t)fmax(0, centre - support + 0.5), end = (int64_t)(centre + support + 0.5);
        end = end < from ? end : from;
        for (int64_t k = start; k < end; k++)
            sum += weights[k] = fmax(0, 1 - fabs(((double)k - centre + 0.5) * (1 / support)));
        for (int64_t n = 0; n < lines; n++) {
            int64_t total = 1 << (PRECISION - 1);
            for (int64_t k = start; k < end; k++)
                total += source[n * step + k * stride] * (int64_t)(0.5 + weights[k] / sum * (1 << PRECISION));
            total >>= PRECISION;
            result[n * new_step + i * stride] = (uint8_t)(total > 255 ? 255 : total);
        }
    }
    free(weights);
}

/* The width first, into a whole image, then the height. */
static void resize_plainly(const uint8_t *pixels, const shape *at, uint8_t *resized) {
    int64_t row_bytes = CHANNELS * at->width, new_row_bytes = CHANNELS * at->new_width;
    uint8_t *wide = array(at->height * new_row_bytes, 1);
    for (int64_t channel = 0; channel < CHANNELS; channel++)
        resize_lines(pixels + channel, wide + channel, at->height, at->width, at->new_width, row_bytes, new_row_bytes,
                     CHANNELS);
    resize_lines(wide, resized, new_row_bytes, at->height, at->new_height, 1, 1, new_row_bytes);
    free(wide);
}

static void check_resize(void) {
    shape at = random_shape(1);
    int64_t area = at.height * at.width, new_bytes = CHANNELS * at.new_height * at.new_width;
    int64_t extreme = random_below(2), pixel_bytes = CHANNELS + random_below(2);
    uint8_t *pixels = array(CHANNELS * area, 1), *given = array(pixel_bytes * area, 1);
    uint8_t *resized = array(new_bytes, 1), *expected = array(new_bytes, 1);
    for (int64_t i = 0; i < CHANNELS * area; i++)
        pixels[i] = (uint8_t)(extreme ? 255 * random_below(2) : random_below(256));
    for (int64_t i = 0; i < pixel_bytes * area; i++)
        given[i] = i % pixel_bytes < CHANNELS ? pixels[i / pixel_bytes * CHANNELS + i % pixel_bytes] : 255;
    int status = resize(given, pixel_bytes, at.height, at.width, at.new_height, at.new_width, resized);
    require(status == OK, "resize fails", &at);
    resize_plainly(pixels, &at, expected);
    require(memcmp(resized, expected, (size_t)new_bytes) == 0, "resize gives other pixels", &at);
    free(pixels);
    free(given);
    free(resized);
    free(expected);
}

static void check_refusals(void) {
    float logits[2] = {0, 0};
    uint8_t samples[6] = {0}, result[6];
    for (int64_t classes = MAX_CLASSES + 1; classes <= 300; classes++) {
        shape at = {classes, 1, 1, 1, 1};
        require(label_map(logits, 4, classes, 1, 1, 1, 1, result) == BAD_SIZE, "label_map takes more classes", &at);
    }
    for (int i = 0; i < 5; i++)
        for (int64_t bad = -1; bad <= 0; bad++) {
            int64_t sizes[5] = {1, 1, 1, 1, 1};
            sizes[i] = bad;
            shape at = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
            int status = label_map(logits, 4, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], result);
            require(status == BAD_SIZE, "label_map takes the sizes", &at);
            status = resize(samples, CHANNELS, sizes[1], sizes[2], sizes[3], sizes[4], result);
            require(status == (i == 0 ? OK : BAD_SIZE), "resize does not look at the sizes", &at);
        }
    for (int64_t pixel_bytes = -1; pixel_bytes <= 6; pixel_bytes++) {
        shape at = {1, 1, 1, 1, 1};
        int takes = pixel_bytes == CHANNELS || pixel_bytes == CHANNELS + 1;
        int status = resize(samples, pixel_bytes, 1, 1, 1, 1, result);
        require(status == (takes ? OK : BAD_SIZE), "resize does not look at the bytes of a pixel", &at);
        takes = pixel_bytes == 2 || pixel_bytes == 4;
        status = label_map(logits, pixel_bytes, 1, 1, 1, 1, 1, result);
        require(status == (takes ? OK : BAD_SIZE), "label_map does not look at the bytes of a value", &at);
    }
}

static int run_small(int function) {
    const float logits[4] = {1, 2, 4, 3};
    const uint8_t pixels[12] = {0};
    uint8_t result[48];
    return function ? label_map(logits, 4, 2, 1, 2, 3, 4, result) : resize(pixels, CHANNELS, 2, 2, 4, 4, result);
}

/* Each allocation fails once; what was allocated until then must be free again, which the leak check sees. */
static void check_failed_allocations(void) {
    const shape at = {2, 2, 2, 4, 4};
    for (int function = 0; function < 2; function++) {
        int64_t fails = 0;
        for (;; fails++) {
            allocations_left = fails;
            int status = run_small(function);
            int all_made = allocations_left >= 0;
            allocations_left = -1;
            require(status == (all_made ? OK : NO_MEMORY), "a failed allocation is not told", &at);
            if (all_made) break;
        }
        require(fails > 0, "no allocation is seen", &at);
    }
}

int main(int argc, char **argv) {
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    state = seed * 2 + 1;
    check_refusals();
    check_failed_allocations();
    for (int i = 0; i < LABEL_ROUNDS; i++) check_label_map();
    for (int i = 0; i < HALF_ROUNDS; i++) check_halves();
    for (int i = 0; i < RESIZE_ROUNDS; i++) check_resize();
    printf("seed %llu: %d label maps and %d resizes equal their references\n", (unsigned long long)seed, LABEL_ROUNDS,
           RESIZE_ROUNDS);
    return 0;
}
