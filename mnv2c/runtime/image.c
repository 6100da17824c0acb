/*
 * Camera frames become the network's input, in one pass over their rows: a row is converted to R, G, B, scaled across, and
 * kept until those of the network's rows that it is part of are summed up. The arithmetic is that of Pillow's
 * Image.resize(size, BILINEAR, box), src/libImaging/Resample.c, to the last bit: weights in double, rounded to 22 bits. Where
 * Pillow scales down first, which newer ones do with tall images, bytes are rounded in another order: they differ by 1.
 */
#include "image.h"

#include <stdlib.h>

enum {
    BITS = 22, /* of a weight's fraction */
    HALF = 1 << (BITS - 1),
    ROW = 3 * MNV2C_WIDTH,
    /* Pixels of an image that one of the network's is made of, at most: see weigh. */
    MOST_ACROSS = 2 * (MNV2C_MAX_SIDE / MNV2C_WIDTH) + 3,
    MOST_DOWN = 2 * (MNV2C_MAX_SIDE / MNV2C_HEIGHT) + 3
};

static const double CENTRE = 0.875; /* 224 of 256 pixels */

/* Where a format keeps R, G or B; Y, U or V: in which plane, how many bytes from the start of a row, and how many bytes from
 * one to the next. `across` and `down` are 1 where two neighbours share one. */
struct channel {
    unsigned char plane, offset, step, across, down;
};

static const struct format {
    int is_yuv;
    struct channel channels[3];
} formats[] = {
    [MNV2C_RGB] = {0, {{0, 0, 3, 0, 0}, {0, 1, 3, 0, 0}, {0, 2, 3, 0, 0}}},
    [MNV2C_BGR] = {0, {{0, 2, 3, 0, 0}, {0, 1, 3, 0, 0}, {0, 0, 3, 0, 0}}},
    [MNV2C_RGBX] = {0, {{0, 0, 4, 0, 0}, {0, 1, 4, 0, 0}, {0, 2, 4, 0, 0}}},
    [MNV2C_BGRX] = {0, {{0, 2, 4, 0, 0}, {0, 1, 4, 0, 0}, {0, 0, 4, 0, 0}}},
    [MNV2C_YUYV] = {1, {{0, 0, 2, 0, 0}, {0, 1, 4, 1, 0}, {0, 3, 4, 1, 0}}},
    [MNV2C_NV12] = {1, {{0, 0, 1, 0, 0}, {1, 0, 2, 1, 1}, {1, 1, 2, 1, 1}}},
    [MNV2C_YUV420] = {1, {{0, 0, 1, 0, 0}, {1, 0, 1, 1, 1}, {2, 0, 1, 1, 1}}},
};

/* The equations of the header, times 65536. */
static const struct matrix {
    int32_t black, y, rv, gu, gv, bu;
} matrices[] = {
    [MNV2C_BT601] = {16, 76309, 104597, -25675, -53279, 132201},
    [MNV2C_BT601_FULL] = {0, 65536, 91881, -22554, -46802, 116130},
    [MNV2C_BT709] = {16, 76309, 117489, -13975, -34925, 138438},
};

/* The pixels of an image that one of the network's is made of, along a row or a column. */
struct window {
    int first, count;
};

struct mnv2c_fitting {
    struct window across[MNV2C_WIDTH];
    int32_t weights_across[MNV2C_WIDTH * MOST_ACROSS]; /* those of each window, one after the other */
    int32_t weights_down[MOST_DOWN];
    int32_t sums[ROW];
    uint8_t pixels[3 * MNV2C_MAX_SIDE]; /* a row of the image, as R, G, B */
    uint8_t rows[MOST_DOWN][ROW];       /* row r of the image, scaled across, is in r % kept */
    int kept;
    uint8_t rgb[MNV2C_BATCH][MNV2C_HEIGHT][ROW];
};

const char *mnv2c_image_message(int status)
{
    switch (status) {
    case MNV2C_IMAGE_FORMAT: return "an image's format, fit or matrix is none that the library knows";
    case MNV2C_IMAGE_SIZE: return "an image's width or height is out of range, or odd in a format where two pixels share colour";
    case MNV2C_IMAGE_STRIDE: return "a stride of an image is shorter than a row of it, or too long";
    default: return NULL;
    }
}

static int check(const mnv2c_image *image)
{
    const int format_count = sizeof formats / sizeof *formats, matrix_count = sizeof matrices / sizeof *matrices;
    if (image->format < MNV2C_RGB || image->format >= format_count) return MNV2C_IMAGE_FORMAT;
    if (image->fit != MNV2C_CROP && image->fit != MNV2C_STRETCH) return MNV2C_IMAGE_FORMAT;
    if (image->matrix < 0 || image->matrix >= matrix_count) return MNV2C_IMAGE_FORMAT;
    if (image->width < 1 || image->width > MNV2C_MAX_SIDE) return MNV2C_IMAGE_SIZE;
    if (image->height < 1 || image->height > MNV2C_MAX_SIDE) return MNV2C_IMAGE_SIZE;
    for (int i = 0; i < 3; i++) {
        const struct channel *channel = &formats[image->format].channels[i];
        size_t stride = image->strides[channel->plane], rows = (size_t)(image->height >> channel->down);
        if ((image->width & channel->across) != 0 || (image->height & channel->down) != 0) return MNV2C_IMAGE_SIZE;
        if (image->planes[channel->plane] == NULL) return MNV2C_ARGUMENT;
        if (stride < (size_t)(image->width >> channel->across) * channel->step) return MNV2C_IMAGE_STRIDE;
        if (stride > PTRDIFF_MAX / rows) return MNV2C_IMAGE_STRIDE;
    }
    return MNV2C_OK;
}

/* One direction: which part of an image the network sees. */
struct axis {
    int inputs;     /* pixels of the image */
    double from;    /* where the part begins */
    double scale;   /* pixels of the image for one of the network's */
    double support; /* how far the filter reaches */
};

/* Pillow takes the part as floats. */
static struct axis part(int inputs, int outputs, float from, float to)
{
    double scale = (double)(to - from) / outputs;
    return (struct axis){inputs, from, scale, scale < 1 ? 1 : scale};
}

static struct axis middle(int inputs, int outputs, double scale)
{
    double extent = scale * outputs;
    double from = (inputs - extent) / 2;
    return part(inputs, outputs, (float)from, (float)(from + extent));
}

static void choose_axes(const mnv2c_image *image, struct axis *across, struct axis *down)
{
    *across = part(image->width, MNV2C_WIDTH, 0, (float)image->width);
    *down = part(image->height, MNV2C_HEIGHT, 0, (float)image->height);
    if (image->fit == MNV2C_STRETCH || (image->width == MNV2C_WIDTH && image->height == MNV2C_HEIGHT)) return;
    double x = (double)image->width / MNV2C_WIDTH, y = (double)image->height / MNV2C_HEIGHT;
    double scale = CENTRE * (x < y ? x : y);
    *across = middle(image->width, MNV2C_WIDTH, scale);
    *down = middle(image->height, MNV2C_HEIGHT, scale);
}

static double triangle(double x)
{
    double distance = x < 0 ? -x : x;
    return distance < 1 ? 1 - distance : 0;
}

/* What output `index` is made of, and the weight of each. */
static struct window weigh(const struct axis *axis, int index, int32_t *weights)
{
    double centre = axis->from + (index + 0.5) * axis->scale, steepness = 1 / axis->support, sum = 0;
    int first = (int)(centre - axis->support + 0.5), end = (int)(centre + axis->support + 0.5);
    if (first < 0) first = 0;
    if (end > axis->inputs) end = axis->inputs;
    for (int i = first; i < end; i++) sum += triangle((i - centre + 0.5) * steepness);
    for (int i = first; i < end; i++)
        *weights++ = (int32_t)(0.5 + triangle((i - centre + 0.5) * steepness) / sum * (1 << BITS));
    return (struct window){first, end - first};
}

static uint8_t byte(int32_t sum, int bits)
{
    int32_t value = sum < 0 ? 0 : sum >> bits;
    return (uint8_t)(value > 255 ? 255 : value);
}

/* One of the three values of each pixel of a row: where the first lies, and bytes to the next. */
struct samples {
    const uint8_t *first;
    int step;
};

static struct samples samples_of(const mnv2c_image *image, int row, const struct channel *channel)
{
    const uint8_t *start = image->planes[channel->plane] + image->strides[channel->plane] * (size_t)(row >> channel->down);
    return (struct samples){start + channel->offset, channel->step};
}

static void convert(struct matrix m, struct samples y, struct samples u, struct samples v, int begin, int end,
                    uint8_t *pixels)
{
    for (int x = begin; x < end; x++) {
        int32_t luma = m.y * (y.first[x * y.step] - m.black) + (1 << 15);
        int32_t blue = u.first[(x >> 1) * u.step] - 128, red = v.first[(x >> 1) * v.step] - 128;
        pixels[3 * x] = byte(luma + m.rv * red, 16);
        pixels[3 * x + 1] = byte(luma + m.gu * blue + m.gv * red, 16);
        pixels[3 * x + 2] = byte(luma + m.bu * blue, 16);
    }
}

/* The pixels from `begin` to `end` of a row, as R, G, B; `pixels` is where the row begins. */
static void read_row(const mnv2c_image *image, int row, int begin, int end, uint8_t *pixels)
{
    const struct format *format = &formats[image->format];
    struct samples a = samples_of(image, row, &format->channels[0]);
    struct samples b = samples_of(image, row, &format->channels[1]);
    struct samples c = samples_of(image, row, &format->channels[2]);
    if (format->is_yuv) {
        convert(matrices[image->matrix], a, b, c, begin, end, pixels);
        return;
    }
    for (int x = begin; x < end; x++) {
        pixels[3 * x] = a.first[x * a.step];
        pixels[3 * x + 1] = b.first[x * b.step];
        pixels[3 * x + 2] = c.first[x * c.step];
    }
}

static void scale_across(const struct mnv2c_fitting *fitting, uint8_t *row)
{
    const int32_t *weight = fitting->weights_across;
    for (int x = 0; x < MNV2C_WIDTH; x++) {
        const uint8_t *pixel = fitting->pixels + 3 * fitting->across[x].first;
        int32_t r = HALF, g = HALF, b = HALF;
        for (int i = 0; i < fitting->across[x].count; i++, pixel += 3, weight++) {
            r += *weight * pixel[0];
            g += *weight * pixel[1];
            b += *weight * pixel[2];
        }
        row[3 * x] = byte(r, BITS);
        row[3 * x + 1] = byte(g, BITS);
        row[3 * x + 2] = byte(b, BITS);
    }
}

static void scale_down(struct mnv2c_fitting *fitting, struct window window, uint8_t *row)
{
    int32_t *sums = fitting->sums;
    for (int x = 0; x < ROW; x++) sums[x] = HALF;
    for (int i = 0; i < window.count; i++) {
        const uint8_t *scaled = fitting->rows[(window.first + i) % fitting->kept];
        for (int x = 0; x < ROW; x++) sums[x] += fitting->weights_down[i] * scaled[x];
    }
    for (int x = 0; x < ROW; x++) row[x] = byte(sums[x], BITS);
}

static void fit(struct mnv2c_fitting *fitting, const mnv2c_image *image, uint8_t (*rgb)[ROW])
{
    struct axis across, down;
    choose_axes(image, &across, &down);
    int32_t *weights = fitting->weights_across;
    for (int x = 0; x < MNV2C_WIDTH; x++) {
        fitting->across[x] = weigh(&across, x, weights);
        weights += fitting->across[x].count;
    }
    struct window last = fitting->across[MNV2C_WIDTH - 1];
    fitting->kept = (int)(2 * down.support) + 2;
    int read = 0; /* rows before this one have been read, or are not needed */
    for (int y = 0; y < MNV2C_HEIGHT; y++) {
        struct window window = weigh(&down, y, fitting->weights_down);
        if (read < window.first) read = window.first;
        for (; read < window.first + window.count; read++) {
            read_row(image, read, fitting->across[0].first, last.first + last.count, fitting->pixels);
            scale_across(fitting, fitting->rows[read % fitting->kept]);
        }
        scale_down(fitting, window, rgb[y]);
    }
}

int mnv2c_fit_images(struct mnv2c_fitting **fitting, const mnv2c_image *images, const uint8_t **rgb)
{
    for (int n = 0; n < MNV2C_BATCH; n++) {
        int status = check(&images[n]);
        if (status != MNV2C_OK) return status;
    }
    if (*fitting == NULL) *fitting = malloc(sizeof **fitting);
    if (*fitting == NULL) return MNV2C_MEMORY;
    for (int n = 0; n < MNV2C_BATCH; n++) fit(*fitting, &images[n], (*fitting)->rgb[n]);
    *rgb = (*fitting)->rgb[0][0];
    return MNV2C_OK;
}
