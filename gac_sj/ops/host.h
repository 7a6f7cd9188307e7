// Definitions of what CUDA C has and C++ lacks. With this file in front, a C++ compiler builds the kernels for the CPU.
//
// OpenMP threads share the blocks of the grid. A block processes neighbouring packs, and loops over lanes become vector
// instructions. For tests, EMULATE_GRID assigns packs to blocks and threads in the same way as on a GPU.

#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#define HOST
#define __global__
#define __device__

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
extern "C" __attribute__((simd("notinbranch"))) float expf(float) noexcept;  // glibc also has a vector version
#endif

struct dim { unsigned x, y; };
static thread_local dim blockIdx, threadIdx, gridDim, blockDim;

static inline unsigned __float_as_uint(float x) { unsigned y; std::memcpy(&y, &x, 4); return y; }
static inline float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }
// A half has a sign bit, 5 bits of exponent (15 stands for 2^0) and 10 bits of fraction. Every case is computed and one
// is chosen, so that loops become vector instructions, which compilers do not make of their own conversions.
static inline float half_to_float(unsigned short half) {
  const unsigned magnitude = half & 0x7fffu, bits = magnitude << 13;
  const float tiny = __uint_as_float(bits + 0x38800000u) - 0x1p-14f;  // below 2^-14, where the exponent is not stored
  const unsigned other = bits + (magnitude < 0x7c00u ? 0x38000000u : 0x70000000u);  // infinity and NaN
  return __uint_as_float((magnitude < 0x400u ? __float_as_uint(tiny) : other) | (half & 0x8000u) << 16);
}
static inline unsigned short float_to_half(float x) {
  const unsigned bits = __float_as_uint(x), magnitude = bits & 0x7fffffffu;
  const unsigned tiny = __float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u;  // rounds to multiples of 2^-24
  const unsigned normal = (magnitude - 0x37fff001u + (magnitude >> 13 & 1u)) >> 13;  // round to nearest, ties to even
  const unsigned finite = magnitude < 0x38800000u ? tiny : normal;
  const unsigned other = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;  // NaN, infinity
  return (magnitude < 0x477ff000u ? finite : other) | (bits >> 16 & 0x8000u);
}

#ifdef EMULATE_GRID
static inline long long first_pack(long long) { return blockIdx.x * (long long)blockDim.x + threadIdx.x; }
static inline long long last_pack(long long packs) { return packs; }
static inline long long next_pack() { return gridDim.x * (long long)blockDim.x; }
#else
static inline long long first_pack(long long packs) { return packs * blockIdx.x / gridDim.x; }
static inline long long last_pack(long long packs) { return packs * (blockIdx.x + 1) / gridDim.x; }
static constexpr long long next_pack() { return 1; }
#endif

// The arguments are pointers to the values, as for the CUDA driver.
template <class... A, std::size_t... I>
static void run(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}

template <class... A>
static void launch(void (*kernel)(A...), void** arguments, dim grid, unsigned block, int workers) {
#pragma omp parallel for num_threads(workers)
  for (long long b = 0; b < (long long)grid.x * grid.y; ++b) {
    gridDim = grid;
    blockDim = {block, 1};
    blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x)};
    for (threadIdx = {0, 0}; threadIdx.x < block; ++threadIdx.x) run(kernel, arguments, std::index_sequence_for<A...>());
  }
}
