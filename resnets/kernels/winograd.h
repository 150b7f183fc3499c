// 3x3 convolutions of few channels, forward and backward, by Winograd's F(4x4, 3x3)
// (Lavin and Gray 2015): 36 multiplications instead of 144 for each tile of outputs and pair of channels.
//
// Tiles of 6x6 inputs, four apart, are transformed; the matrices (tiles, inputs) of each of the 36
// points are multiplied with transformed weights, which results in tiles of 4x4 outputs. The backward pass is
// the same, transposed. In bf16, transforms are computed in float32 and rounded; products are added up in
// float32. The points are chosen for that: the results' error is two to four times that of direct sums of bf16
// products, about one hundredth of their size. A few rows of tiles are computed together, so that all of them stay in the cache. The
// functions that make the inputs and that take the results are arguments: BN, ReLU and their sums are computed
// there, without another pass over the maps.

#pragma once

#include "maps.h"

namespace {

constexpr int64_t EDGE = 4, SEEN = 6, POINTS = SEEN * SEEN;  // outputs and inputs of a tile

// The points are 0, +-sqrt(1/2), +-sqrt(2) and infinity; farther ones would round worse.
constexpr float NEAR = 0.70710678118654752f, FAR = 1.4142135623730950f;

// One dimension of each transform. B' d, of inputs:
inline void spread(vec* d) {
    const vec near_even = d[4] - 2 * d[2], near_odd = NEAR * (d[3] - 2 * d[1]);
    const vec far_even = d[4] - 0.5f * d[2], far_odd = FAR * (d[3] - 0.5f * d[1]);
    d[0] = (d[0] + d[4]) - 2.5f * d[2];
    d[5] = (d[1] + d[5]) - 2.5f * d[3];
    d[1] = near_even + near_odd;
    d[2] = near_even - near_odd;
    d[3] = far_even + far_odd;
    d[4] = far_even - far_odd;
}

// B g, back to the gradients of inputs.
inline void gather(vec* g) {
    const vec near_even = g[1] + g[2], near_odd = NEAR * (g[1] - g[2]);
    const vec far_even = g[3] + g[4], far_odd = FAR * (g[3] - g[4]);
    const vec first = g[0], last = g[5];
    g[0] = first;
    g[1] = last - 2 * near_odd - 0.5f * far_odd;
    g[2] = -2.5f * first - 2 * near_even - 0.5f * far_even;
    g[3] = near_odd + far_odd - 2.5f * last;
    g[4] = first + near_even + far_even;
    g[5] = last;
}

// A' m, to outputs.
inline void finish(const vec* m, vec* out) {
    const vec near_even = m[1] + m[2], near_odd = NEAR * (m[1] - m[2]);
    const vec far_even = m[3] + m[4], far_odd = FAR * (m[3] - m[4]);
    out[0] = m[0] + near_even + far_even;
    out[1] = near_odd + far_odd;
    out[2] = 0.5f * near_even + 2 * far_even;
    out[3] = (0.5f * near_odd + m[5]) + 2 * far_odd;
}

// A g, of the gradients of outputs.
inline void unfinish(const vec* g, vec* m) {
    const vec near_even = g[0] + 0.5f * g[2], near_odd = NEAR * (g[1] + 0.5f * g[3]);
    const vec far_even = g[0] + 2 * g[2], far_odd = FAR * (g[1] + 2 * g[3]);
    m[0] = g[0];
    m[1] = near_even + near_odd;
    m[2] = near_even - near_odd;
    m[3] = far_even + far_odd;
    m[4] = far_even - far_odd;
    m[5] = g[3];
}

// G w, of weights, and G' u, back to their gradients.
constexpr float NEARLY = -2 / 3.0f, FARTHER = 1 / 6.0f;

inline void spread_weights(const vec* w, vec* u) {
    const vec near_even = NEARLY * (w[0] + 0.5f * w[2]), near_odd = NEARLY * NEAR * w[1];
    const vec far_even = FARTHER * (w[0] + 2 * w[2]), far_odd = FARTHER * FAR * w[1];
    u[0] = w[0];
    u[1] = near_even + near_odd;
    u[2] = near_even - near_odd;
    u[3] = far_even + far_odd;
    u[4] = far_even - far_odd;
    u[5] = w[2];
}

inline void gather_weights(const vec* u, vec* w) {
    const vec near_even = NEARLY * (u[1] + u[2]), near_odd = NEARLY * NEAR * (u[1] - u[2]);
    const vec far_even = FARTHER * (u[3] + u[4]), far_odd = FARTHER * FAR * (u[3] - u[4]);
    w[0] = u[0] + near_even + far_even;
    w[1] = near_odd + far_odd;
    w[2] = 0.5f * near_even + 2 * far_even + u[5];
}

// Rows of a matrix whose results are kept in registers together: as many as there are.
constexpr int64_t ROWS = WIDTH == 16 ? 12 : 6;
constexpr int64_t TOGETHER = 24;  // tiles: about as many as fit in the cache, a multiple of ROWS

// to = from w: (rows, SIZE), (rows, SIZE), (SIZE, SIZE); rows is a multiple of ROWS.
template <int SIZE>
NOT_INLINE void multiply(const float* from, const float* w, float* to, int64_t rows) {
    constexpr int VECTORS = SIZE == WIDTH ? 1 : 2;
    for (int64_t part = 0; part < SIZE; part += VECTORS * WIDTH)
        for (int64_t row = 0; row < rows; row += ROWS) {
            vec sum[ROWS][VECTORS] = {};
#pragma GCC unroll 2
            for (int64_t k = 0; k < SIZE; ++k) {
                vec many[VECTORS];
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; ++v) many[v] = load(w + k * SIZE + part + v * WIDTH);
#pragma GCC unroll 12
                for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
                    for (int v = 0; v < VECTORS; ++v) sum[r][v] += many[v] * from[(row + r) * SIZE + k];
            }
#pragma GCC unroll 12
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; ++v) store(to + (row + r) * SIZE + part + v * WIDTH, sum[r][v]);
        }
}

// sums += from' by: (SIZE, SIZE), (rows, SIZE), (rows, SIZE).
template <int SIZE>
NOT_INLINE void correlate(const float* from, const float* by, float* sums, int64_t rows) {
    constexpr int VECTORS = SIZE == WIDTH ? 1 : 2, SOME = WIDTH == 16 ? 8 : 4;
    for (int64_t part = 0; part < SIZE; part += VECTORS * WIDTH)
        for (int64_t k = 0; k < SIZE; k += SOME) {
            vec sum[SOME][VECTORS] = {};
#pragma GCC unroll 2
            for (int64_t row = 0; row < rows; ++row) {
                vec many[VECTORS];
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; ++v) many[v] = load(by + row * SIZE + part + v * WIDTH);
#pragma GCC unroll 8
                for (int s = 0; s < SOME; ++s)
#pragma GCC unroll 4
                    for (int v = 0; v < VECTORS; ++v) sum[s][v] += many[v] * from[row * SIZE + k + s];
            }
#pragma GCC unroll 8
            for (int s = 0; s < SOME; ++s)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; ++v) {
                    float* to = sums + (k + s) * SIZE + part + v * WIDTH;
                    store(to, load(to) + sum[s][v]);
                }
        }
}

#ifdef __AVX512BF16__

// The same in bf16. w has the pairs of each two inputs: (SIZE / 2, SIZE, 2).
template <int SIZE>
NOT_INLINE void multiply(const half* from, const half* w, float* to, int64_t rows) {
    constexpr int VECTORS = SIZE == WIDTH ? 1 : 2;
    for (int64_t part = 0; part < SIZE; part += VECTORS * WIDTH)
        for (int64_t row = 0; row < rows; row += ROWS) {
            vec sum[ROWS][VECTORS] = {};
#pragma GCC unroll 2
            for (int64_t k = 0; k < SIZE; k += 2) {
                vec many[VECTORS];
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; ++v) many[v] = load((const float*)(w + k * SIZE + 2 * (part + v * WIDTH)));
#pragma GCC unroll 12
                for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
                    for (int v = 0; v < VECTORS; ++v) sum[r][v] = dot(sum[r][v], many[v], from + (row + r) * SIZE + k);
            }
#pragma GCC unroll 12
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; ++v) store(to + (row + r) * SIZE + part + v * WIDTH, sum[r][v]);
        }
}

// Pairs of each two rows, (rows / 2, SIZE); a last row without another is paired with zeros.
template <int SIZE>
void pair_rows(const half* from, int64_t rows, pair* to) {
    static constexpr half ZEROS[WIDTH] = {};
    for (int64_t row = 0; row < rows; row += 2)
        for (int64_t c = 0; c < SIZE; c += WIDTH) {
            const half* at = from + row * SIZE + c;
            interleave(at, row + 1 < rows ? at + SIZE : ZEROS, to + row / 2 * SIZE + c);
        }
}

// The same in bf16, some rows after the other.
template <int SIZE>
NOT_INLINE void correlate(const half* from, const half* by, float* sums, int64_t rows) {
    constexpr int VECTORS = SIZE == WIDTH ? 1 : 2, SOME = 8;
    alignas(64) pair left[TOGETHER / 2 * SIZE], right[TOGETHER / 2 * SIZE];
    for (int64_t start = 0; start < rows; start += TOGETHER) {
        const int64_t count = rows - start < TOGETHER ? rows - start : TOGETHER;
        pair_rows<SIZE>(from + start * SIZE, count, left);
        pair_rows<SIZE>(by + start * SIZE, count, right);
        for (int64_t part = 0; part < SIZE; part += VECTORS * WIDTH)
            for (int64_t k = 0; k < SIZE; k += SOME) {
                vec sum[SOME][VECTORS] = {};
                for (int64_t row = 0; row < (count + 1) / 2; ++row) {
                    vec many[VECTORS];
#pragma GCC unroll 4
                    for (int v = 0; v < VECTORS; ++v)
                        many[v] = load((const float*)(right + row * SIZE + part + v * WIDTH));
#pragma GCC unroll 8
                    for (int s = 0; s < SOME; ++s)
#pragma GCC unroll 4
                        for (int v = 0; v < VECTORS; ++v)
                            sum[s][v] = dot(sum[s][v], many[v], left + row * SIZE + k + s);
                }
#pragma GCC unroll 8
                for (int s = 0; s < SOME; ++s)
#pragma GCC unroll 4
                    for (int v = 0; v < VECTORS; ++v) {
                        float* to = sums + (k + s) * SIZE + part + v * WIDTH;
                        store(to, load(to) + sum[s][v]);
                    }
            }
    }
}

#endif

// A matrix (SIZE, SIZE) of transformed weights, as `multiply` reads it: values, or pairs of two rows.
template <int SIZE>
int64_t index(const float*, int64_t row, int64_t column) { return row * SIZE + column; }
template <int SIZE>
int64_t index(const half*, int64_t row, int64_t column) { return row / 2 * 2 * SIZE + 2 * column + row % 2; }

// Weights (outputs, taps, inputs), transformed: (points, inputs, outputs), or (points, outputs, inputs) for
// the backward pass.
template <int SIZE, class V>
NOT_INLINE Buffer<V> transform(const float* w, bool backwards) {
    Buffer<V> all(POINTS * SIZE * SIZE);
#pragma omp parallel for
    for (int64_t out = 0; out < SIZE; ++out)
        for (int64_t in = 0; in < SIZE; in += WIDTH) {
            vec half_done[SEEN][SIDE];
            for (int64_t x = 0; x < SIDE; ++x) {
                vec column[SIDE], made[SEEN];
                for (int64_t y = 0; y < SIDE; ++y) column[y] = load(w + (out * TAPS + y * SIDE + x) * SIZE + in);
                spread_weights(column, made);
                for (int64_t i = 0; i < SEEN; ++i) half_done[i][x] = made[i];
            }
            for (int64_t i = 0; i < SEEN; ++i) {
                vec made[SEEN];
                spread_weights(half_done[i], made);
                for (int64_t j = 0; j < SEEN; ++j) {
                    V *to = all.data() + (i * SEEN + j) * SIZE * SIZE, some[WIDTH];
                    store(some, made[j]);
                    for (int64_t k = 0; k < WIDTH; ++k)
                        to[backwards ? index<SIZE>(to, out, in + k) : index<SIZE>(to, in + k, out)] = some[k];
                }
            }
        }
    return all;
}

// Sums of the threads (threads, points, inputs, outputs), added in the order of threads and transformed back, as
// (outputs, taps, inputs).
template <int SIZE>
NOT_INLINE void collect(const Buffer<float>& all, float* to) {
    constexpr size_t EACH = POINTS * SIZE * SIZE;
#pragma omp parallel for
    for (int64_t in = 0; in < SIZE; ++in)
        for (int64_t out = 0; out < SIZE; out += WIDTH) {
            vec half_done[SIDE][SEEN];
            for (int64_t j = 0; j < SEEN; ++j) {
                vec column[SEEN], made[SIDE];
                for (int64_t i = 0; i < SEEN; ++i) {
                    column[i] = vec{};
                    for (size_t t = 0; t < all.size(); t += EACH)
                        column[i] += load(all.data() + t + ((i * SEEN + j) * SIZE + in) * SIZE + out);
                }
                gather_weights(column, made);
                for (int64_t y = 0; y < SIDE; ++y) half_done[y][j] = made[y];
            }
            for (int64_t y = 0; y < SIDE; ++y) {
                vec made[SIDE];
                gather_weights(half_done[y], made);
                for (int64_t x = 0; x < SIDE; ++x)
                    for (int64_t k = 0; k < WIDTH; ++k) to[((out + k) * TAPS + y * SIDE + x) * SIZE + in] = made[x][k];
            }
        }
}

// The rows of tiles of some images, and the layout of their transforms: (points, tiles, SIZE).
template <int SIZE>
struct Tiles {
    const Maps maps;
    const int64_t down, across;  // tiles of an image
    const int64_t group;         // rows of tiles that are computed together
    const int64_t pitch;         // from one point to the next; not a power of two, for the cache's sake

    explicit Tiles(const Maps& maps)
        : maps(maps), down((maps.height + EDGE - 1) / EDGE), across((maps.width + EDGE - 1) / EDGE),
          group(across < TOGETHER ? TOGETHER / across : 1), pitch(rounded(group) * SIZE + WIDTH) {}

    // Number of tiles in some rows, rounded up to a multiple of ROWS.
    int64_t rounded(int64_t lines) const { return (lines * across + ROWS - 1) / ROWS * ROWS; }

    // First row of pixels of a row of tiles, and its flat index in the maps.
    int64_t top(int64_t line) const { return line % down * EDGE; }
    int64_t start(int64_t line) const { return (line / down * maps.height + top(line)) * maps.width * SIZE; }
    int64_t stride() const { return maps.width * SIZE; }
};

// Transforms the inputs of one row of tiles after the other.
template <int SIZE>
struct Reader {
    const Tiles<SIZE> tiles;
    const int64_t columns;
    // Two rows of pixels for the next row of tiles; inputs transformed in one dimension, with a border.
    Buffer<float> kept, strip;

    explicit Reader(const Tiles<SIZE>& tiles)
        : tiles(tiles), columns(tiles.across * EDGE + 2), kept(2 * tiles.maps.width * SIZE),
          strip(SEEN * columns * SIZE, 0.0f) {}

    template <class Make, class V>
    void read(int64_t line, Make make, V* to) {
        const int64_t start = tiles.start(line), top = tiles.top(line), stride = tiles.stride();
        const int64_t below = tiles.maps.height - top;  // rows of pixels from here
        for (int64_t x = 0; x < tiles.maps.width; ++x)
            for (int v = 0; v < SIZE / WIDTH; ++v) {
                float* last = kept.data() + 2 * x * SIZE + v * WIDTH;
                const int64_t at = start + x * SIZE + v * WIDTH;
                vec d[SEEN];
                d[0] = top ? load(last) : vec{};
                d[1] = top ? load(last + SIZE) : make(at, v);
#pragma GCC unroll 4
                for (int r = 1; r <= EDGE; ++r) d[r + 1] = r < below ? make(at + r * stride, v) : vec{};
                store(last, d[4]);
                store(last + SIZE, d[5]);
                spread(d);
#pragma GCC unroll 6
                for (int i = 0; i < SEEN; ++i) store(strip.data() + (i * columns + x + 1) * SIZE + v * WIDTH, d[i]);
            }
        for (int64_t tile = 0; tile < tiles.across; ++tile)
            for (int64_t i = 0; i < SEEN; ++i)
                for (int64_t c = 0; c < SIZE; c += WIDTH) {
                    vec d[SEEN];
#pragma GCC unroll 6
                    for (int j = 0; j < SEEN; ++j)
                        d[j] = load(strip.data() + (i * columns + tile * EDGE + j) * SIZE + c);
                    spread(d);
#pragma GCC unroll 6
                    for (int j = 0; j < SEEN; ++j) store(to + (i * SEEN + j) * tiles.pitch + tile * SIZE + c, d[j]);
                }
    }
};

// Transforms the gradients of the outputs of a row of tiles.
template <int SIZE>
struct GradientReader {
    const Tiles<SIZE> tiles;
    const int64_t columns;
    Buffer<float> strip;

    explicit GradientReader(const Tiles<SIZE>& tiles)
        : tiles(tiles), columns(tiles.across * EDGE), strip(SEEN * columns * SIZE, 0.0f) {}

    template <class Make, class V>
    void read(int64_t line, Make make, V* to) {
        const int64_t start = tiles.start(line), stride = tiles.stride();
        const int64_t below = tiles.maps.height - tiles.top(line);
        for (int64_t x = 0; x < tiles.maps.width; ++x)
            for (int v = 0; v < SIZE / WIDTH; ++v) {
                const int64_t at = start + x * SIZE + v * WIDTH;
                vec g[EDGE], m[SEEN];
#pragma GCC unroll 4
                for (int r = 0; r < EDGE; ++r) g[r] = r < below ? make(at + r * stride, v) : vec{};
                unfinish(g, m);
#pragma GCC unroll 6
                for (int i = 0; i < SEEN; ++i) store(strip.data() + (i * columns + x) * SIZE + v * WIDTH, m[i]);
            }
        for (int64_t tile = 0; tile < tiles.across; ++tile)
            for (int64_t i = 0; i < SEEN; ++i)
                for (int64_t c = 0; c < SIZE; c += WIDTH) {
                    vec g[EDGE], m[SEEN];
#pragma GCC unroll 4
                    for (int j = 0; j < EDGE; ++j)
                        g[j] = load(strip.data() + (i * columns + tile * EDGE + j) * SIZE + c);
                    unfinish(g, m);
#pragma GCC unroll 6
                    for (int j = 0; j < SEEN; ++j) store(to + (i * SEEN + j) * tiles.pitch + tile * SIZE + c, m[j]);
                }
    }
};

// Writes the outputs of a row of tiles; adds up their sums and those of their squares.
template <int SIZE, class T>
void write(const Tiles<SIZE>& tiles, int64_t line, const float* from, T* to, Row<SIZE>& sum, Row<SIZE>& square) {
    const int64_t start = tiles.start(line), stride = tiles.stride();
    const int64_t below = tiles.maps.height - tiles.top(line);
    for (int64_t tile = 0; tile < tiles.across; ++tile)
        for (int v = 0; v < SIZE / WIDTH; ++v) {
            const float* source = from + tile * SIZE + v * WIDTH;
            T* there = to + start + tile * EDGE * SIZE + v * WIDTH;
            const int64_t right = tiles.maps.width - tile * EDGE;
            vec half_done[EDGE][SEEN], one{}, two{};
#pragma GCC unroll 6
            for (int j = 0; j < SEEN; ++j) {
                vec m[SEEN], out[EDGE];
#pragma GCC unroll 6
                for (int i = 0; i < SEEN; ++i) m[i] = load(source + (i * SEEN + j) * tiles.pitch);
                finish(m, out);
#pragma GCC unroll 4
                for (int y = 0; y < EDGE; ++y) half_done[y][j] = out[y];
            }
#pragma GCC unroll 4
            for (int y = 0; y < EDGE; ++y) {
                if (y >= below) break;
                vec out[EDGE];
                finish(half_done[y], out);
#pragma GCC unroll 4
                for (int x = 0; x < EDGE; ++x) {
                    if (x >= right) break;
                    put_next(there + y * stride + x * SIZE, out[x]);
                    one += out[x];
                    two += out[x] * out[x];
                }
            }
            sum.part[v] += one;
            square.part[v] += two;
        }
}

// Passes the gradients of the inputs of one row of tiles after the other to `take`.
template <int SIZE>
struct Writer {
    const Tiles<SIZE> tiles;
    const int64_t columns;
    // Two rows of pixels from the tiles above; gradients transformed in one dimension.
    Buffer<float> kept, strip;

    explicit Writer(const Tiles<SIZE>& tiles)
        : tiles(tiles), columns(tiles.across * EDGE + 2), kept(2 * tiles.maps.width * SIZE),
          strip(SEEN * columns * SIZE, 0.0f) {}

    template <class Take>
    void write(int64_t line, const float* from, Take take, Row<SIZE>& sum, Row<SIZE>& other) {
        const int64_t start = tiles.start(line), top = tiles.top(line), stride = tiles.stride();
        const int64_t below = tiles.maps.height - top;
        for (int64_t tile = 0; tile < tiles.across; ++tile)
            for (int64_t i = 0; i < SEEN; ++i)
                for (int64_t c = 0; c < SIZE; c += WIDTH) {
                    vec g[SEEN];
#pragma GCC unroll 6
                    for (int j = 0; j < SEEN; ++j) g[j] = load(from + (i * SEEN + j) * tiles.pitch + tile * SIZE + c);
                    gather(g);
                    float* to = strip.data() + (i * columns + tile * EDGE) * SIZE + c;
                    store(to, tile ? load(to) + g[0] : g[0]);
                    store(to + SIZE, tile ? load(to + SIZE) + g[1] : g[1]);
#pragma GCC unroll 4
                    for (int j = 2; j < SEEN; ++j) store(to + j * SIZE, g[j]);
                }
        for (int64_t x = 0; x < tiles.maps.width; ++x)
            for (int v = 0; v < SIZE / WIDTH; ++v) {
                const auto put = [&](int64_t i, vec value) { take(i, v, value, i, sum.part[v], other.part[v]); };
                const int64_t at = start + x * SIZE + v * WIDTH;
                float* last = kept.data() + 2 * x * SIZE + v * WIDTH;
                vec g[SEEN];
#pragma GCC unroll 6
                for (int i = 0; i < SEEN; ++i) g[i] = load(strip.data() + (i * columns + x + 1) * SIZE + v * WIDTH);
                gather(g);
                if (top) {
                    put(at - stride, g[0] + load(last));
                    g[1] += load(last + SIZE);
                }
                store(last, g[4]);
                store(last + SIZE, g[5]);
                put(at, g[1]);
                if (1 < below) put(at + stride, g[2]);
                if (2 < below) put(at + 2 * stride, g[3]);
                if (below == EDGE) put(at + 3 * stride, g[4]);
            }
    }
};

// T: the type of the maps, and of what is multiplied.
template <int SIZE, class T>
struct Winograd {
    typedef T Value;

    const Tiles<SIZE> tiles;

    explicit Winograd(const Maps& maps) : tiles(maps) {}

    // Calls `work(line, count)` for groups of this thread's rows of tiles.
    template <class Work>
    void each(Work work) const {
        int64_t begin, end;
        share(tiles.maps.images, begin, end);
        begin *= tiles.down;
        end *= tiles.down;
        for (int64_t line = begin; line < end; line += tiles.group)
            work(line, line + tiles.group < end ? tiles.group : end - line);
    }

    // to = conv(made, w); returns the sums of it and of its squares.
    template <class Make>
    Sums forward(const float* w, T* to, Make make) const {
        const Buffer<T> weights = transform<SIZE, T>(w, false);
        const int64_t across = tiles.across, pitch = tiles.pitch;
        Sums sums(SIZE);
#pragma omp parallel
        {
            Buffer<T> seen(POINTS * pitch, T{});
            Buffer<float> made(POINTS * pitch);
            Reader<SIZE> reader(tiles);
            each([&](int64_t line, int64_t count) {
                for (int64_t l = 0; l < count; ++l) reader.read(line + l, make, seen.data() + l * across * SIZE);
                for (int64_t p = 0; p < POINTS; ++p)
                    multiply<SIZE>(seen.data() + p * pitch, weights.data() + p * SIZE * SIZE, made.data() + p * pitch,
                                   tiles.rounded(count));
                Row<SIZE> sum, square;
                for (int64_t l = 0; l < count; ++l)
                    write(tiles, line + l, made.data() + l * across * SIZE, to, sum, square);
                sum.add_to(sums.mine());
                square.add_to(sums.mine() + SIZE);
            });
        }
        return sums;
    }

    // From the gradients of the results and from the inputs, which functions return, to the gradients of the
    // weights and of the inputs. `take(i, v, values, at, sum, other)` stores the latter at flat index i and
    // sums them up; `at` is the flat index of the result at the same pixel: i.
    template <class Gradient, class Input, class Take>
    Sums backward(const float* w, float* to_w, Gradient gradient, Input input, Take take) const {
        const Buffer<T> weights = transform<SIZE, T>(w, true);
        const int64_t across = tiles.across, pitch = tiles.pitch;
        Buffer<float> all(POINTS * SIZE * SIZE * omp_get_max_threads(), 0.0f);
        Sums sums(SIZE);
#pragma omp parallel
        {
            Buffer<T> seen(POINTS * pitch), gradients(POINTS * pitch, T{});
            Buffer<float> made(POINTS * pitch);
            Reader<SIZE> reader(tiles);
            GradientReader<SIZE> gradient_reader(tiles);
            Writer<SIZE> writer(tiles);
            float* mine = all.data() + POINTS * SIZE * SIZE * omp_get_thread_num();
            each([&](int64_t line, int64_t count) {
                for (int64_t l = 0; l < count; ++l) {
                    reader.read(line + l, input, seen.data() + l * across * SIZE);
                    gradient_reader.read(line + l, gradient, gradients.data() + l * across * SIZE);
                }
                for (int64_t p = 0; p < POINTS; ++p) {
                    const T *inputs = seen.data() + p * pitch, *outputs = gradients.data() + p * pitch;
                    correlate<SIZE>(inputs, outputs, mine + p * SIZE * SIZE, count * across);
                    multiply<SIZE>(outputs, weights.data() + p * SIZE * SIZE, made.data() + p * pitch,
                                   tiles.rounded(count));
                }
                Row<SIZE> sum, other;
                for (int64_t l = 0; l < count; ++l)
                    writer.write(line + l, made.data() + l * across * SIZE, take, sum, other);
                sum.add_to(sums.mine());
                other.add_to(sums.mine() + SIZE);
            });
        }
        collect<SIZE>(all, to_w);
        return sums;
    }
};

}  // namespace
