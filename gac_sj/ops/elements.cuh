// Elements of tensors, and how they are divided among threads. An element is float, half or bfloat16 in memory and
// float in registers. A thread processes a pack of LANES neighbouring elements at a time. The code needs no CUDA
// header; with host.h in front, a C++ compiler builds it too.
//
// Macros: T (time steps), ELEMENT (float, half, bfloat16), LANES (1, 2, 4, ...).

typedef long long index_t;  // offsets exceed 2^31

#ifdef HOST
#define UNROLL
#define EACH_LANE _Pragma("omp simd") for (int l = 0; l < LANES; ++l)
#elif T <= 32
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("unroll 1")
#endif
#define EACH_STEP UNROLL for (int t = 0; t < T; ++t)
#define EACH_STEP_BACK UNROLL for (int t = T - 1; t >= 0; --t)
#ifndef EACH_LANE
#define EACH_LANE UNROLL for (int l = 0; l < LANES; ++l)
#endif

#ifndef HOST
__device__ inline float half_to_float(unsigned short bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}
__device__ inline unsigned short float_to_half(float x) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
// The packs of a thread are strided by the number of threads, so that neighbouring threads read neighbouring memory.
__device__ inline index_t first_pack(index_t packs) { return blockIdx.x * (index_t)blockDim.x + threadIdx.x; }
__device__ inline index_t last_pack(index_t packs) { return packs; }
__device__ inline index_t next_pack() { return gridDim.x * (index_t)blockDim.x; }
#endif

struct half { unsigned short bits; };
struct bfloat16 { unsigned short bits; };

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(half x) { return half_to_float(x.bits); }
__device__ inline float to_float(bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }

__device__ inline void convert(float x, float& y) { y = x; }
__device__ inline void convert(float x, half& y) { y.bits = float_to_half(x); }
__device__ inline void convert(float x, bfloat16& y) {
  const unsigned bits = __float_as_uint(x);
  y.bits = x != x ? 0x7fffu : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // round to nearest, ties to even
}

__device__ inline void convert(float x, unsigned char& y) { y = (unsigned char)x; }  // of spikes: 0 or 1

template <class S>
struct alignas(sizeof(S) * LANES < 16 ? sizeof(S) * LANES : 16) Pack { S lane[LANES]; };

// The lanes of a pack in memory. A GPU moves the pack with one instruction. On a CPU each lane of a vectorised loop has
// its own access: through a copy of the pack, vectors of one width would be read that were written in another.
#ifdef HOST
template <class S>
struct Input {
  const S* lane;
  Input(const S* at) : lane(at) {}
  float operator[](int l) const { return to_float(lane[l]); }
};
template <class S>
struct Output {
  S* lane;
  Output(S* at) : lane(at) {}
  void set(int l, float value) { convert(value, lane[l]); }
};
#else
template <class S>
struct Input {
  Pack<S> pack;
  __device__ Input(const S* at) : pack(*reinterpret_cast<const Pack<S>*>(at)) {}
  __device__ float operator[](int l) const { return to_float(pack.lane[l]); }
};
template <class S>
struct Output {
  S* at;
  Pack<S> pack;
  __device__ Output(S* at) : at(at) {}
  __device__ ~Output() { *reinterpret_cast<Pack<S>*>(at) = pack; }
  __device__ void set(int l, float value) { convert(value, pack.lane[l]); }
};
#endif

template <class S>
__device__ inline void load(const S* at, float* values) {
  const Input<S> input(at);
  EACH_LANE values[l] = input[l];
}

template <class S>
__device__ inline void store(const float* values, S* at) {
  Output<S> output(at);
  EACH_LANE output.set(l, values[l]);
}
