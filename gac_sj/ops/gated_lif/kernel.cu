// The encoder after its stem: the LIF spikes of z times gain * sigmoid(temporal * spatial) at every step, forward and
// backward. Only the result has T steps in memory. Tensors are [T, images, size]; temporal is [T, images], float.
//
// Macros: T, STATIC, and those of elements.cuh and neuron.cuh. With STATIC, z and spatial are [images, size], the same
// at every step, and so are their gradients. With CLOSED_FORM, the kernel has more arguments: the currents of
// closed_form.py.

#define STEP (STATIC ? 0 : t * images * size)

#ifdef CLOSED_FORM
#define FIRST , float f0, float f1, float f2, float f3, float f4, float f5, float f6, float f7
#define FIRST_ALL {f0, f1, f2, f3, f4, f5, f6, f7}
// Spikes of a constant current without a recursion: at steps k, 2k, 3k, ..., where k is the first step t for which the
// current reaches first[t].
struct Spikes {
  float period[LANES], waited[LANES];
  __device__ Spikes(const Neuron&, const float* current, const float* first) {
    EACH_LANE waited[l] = 0.0f, period[l] = 1.0f;
    EACH_STEP EACH_LANE period[l] += current[l] >= first[t] ? 0.0f : 1.0f;
  }
  __device__ float next(const Neuron&, int l, float current) {
    const float now = waited[l] + 1.0f, s = now == period[l] ? 1.0f : 0.0f;
    waited[l] = s > 0.0f ? 0.0f * current : now;  // an infinite current fires once; then its potential is NaN
    return s;
  }
};
#else
#define FIRST
#define FIRST_ALL {0.0f}
struct Spikes {
  float v[LANES];
  __device__ Spikes(const Neuron& n, const float*, const float*) { EACH_LANE v[l] = n.rest; }
  __device__ float next(const Neuron& n, int l, float current) {
    const float h = charge(n, v[l], current), s = fire(n, h);
    v[l] = reset(n, h, s);
    return s;
  }
};
#endif

extern "C" __global__ void gated_lif_forward(
    const ELEMENT* __restrict__ z, const float* __restrict__ temporal, const ELEMENT* __restrict__ spatial,
    ELEMENT* __restrict__ gated, index_t images, index_t size, float gain,
    float tau, float decay, float threshold, float rest, float a, float b, float c FIRST) {
  const Neuron neuron = {tau, decay, threshold, rest, a, b, c};
  const float first[] = FIRST_ALL;
  const index_t last = last_pack(size / LANES);
  for (index_t image = blockIdx.y; image < images; image += gridDim.y) {
    for (index_t pack = first_pack(size / LANES); pack < last; pack += next_pack()) {
      const index_t i = image * size + pack * LANES;
      float current[LANES], map[LANES];
      if (STATIC) load(z + i, current), load(spatial + i, map);
      Spikes spikes(neuron, current, first);
      EACH_STEP {
        if (!STATIC) load(z + STEP + i, current), load(spatial + STEP + i, map);
        const float weight = temporal[t * images + image];
        float out[LANES];
        EACH_LANE out[l] = spikes.next(neuron, l, current[l]) * (gain * sigmoid(weight * map[l]));
        store(out, gated + t * images * size + i);
      }
    }
  }
}

// grad_temporal is [threads of a row, images, T]: every thread writes its own sums, so that the order of summation is
// fixed.
extern "C" __global__ void gated_lif_backward(
    const ELEMENT* __restrict__ grad_gated, const ELEMENT* __restrict__ z, const float* __restrict__ temporal,
    const ELEMENT* __restrict__ spatial, ELEMENT* __restrict__ grad_z, float* __restrict__ grad_temporal,
    ELEMENT* __restrict__ grad_spatial, index_t images, index_t size, float gain,
    float tau, float decay, float threshold, float rest, float a, float b, float c) {
  const Neuron neuron = {tau, decay, threshold, rest, a, b, c};
  const index_t last = last_pack(size / LANES), thread = blockIdx.x * (index_t)blockDim.x + threadIdx.x;
  for (index_t image = blockIdx.y; image < images; image += gridDim.y) {
    float sums[T][LANES];
    EACH_STEP EACH_LANE sums[t][l] = 0.0f;
    for (index_t pack = first_pack(size / LANES); pack < last; pack += next_pack()) {
      const index_t i = image * size + pack * LANES;
      float current[LANES], map[LANES], v[LANES], h[T][LANES];
      EACH_LANE v[l] = rest;
      if (STATIC) load(z + i, current), load(spatial + i, map);
      EACH_STEP {
        if (!STATIC) load(z + STEP + i, current);
        EACH_LANE {
          h[t][l] = charge(neuron, v[l], current[l]);
          v[l] = reset(neuron, h[t][l], fire(neuron, h[t][l]));
        }
      }
      float kept[LANES], leaked[LANES], to_z[LANES], to_map[LANES];
      EACH_LANE kept[l] = leaked[l] = to_z[l] = to_map[l] = 0.0f;
      EACH_STEP_BACK {
        const float weight = temporal[t * images + image];
        float grad[LANES];
        load(grad_gated + t * images * size + i, grad);
        if (!STATIC) load(spatial + STEP + i, map);
        EACH_LANE {
          const float opened = sigmoid(weight * map[l]), scaled = grad[l] * gain;
          const float slope = fire(neuron, h[t][l]) * scaled * opened * (1.0f - opened);
          const float grad_h = grad_charged(neuron, h[t][l], scaled * opened, kept[l] + leaked[l]);
          kept[l] = grad_kept(neuron, grad_h);
          leaked[l] = grad_leaked(neuron, grad_h);
          sums[t][l] += slope * map[l];
          to_z[l] = grad_input(neuron, grad_h) + (STATIC ? to_z[l] : 0.0f);
          to_map[l] = slope * weight + (STATIC ? to_map[l] : 0.0f);
        }
        if (!STATIC) store(to_z, grad_z + STEP + i), store(to_map, grad_spatial + STEP + i);
      }
      if (STATIC) store(to_z, grad_z + i), store(to_map, grad_spatial + i);
    }
    EACH_STEP {
      float sum = 0.0f;
      for (int l = 0; l < LANES; ++l) sum += sums[t][l];
      grad_temporal[(thread * images + image) * T + t] = sum;
    }
  }
}
