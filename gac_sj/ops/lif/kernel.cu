// LIF over T steps, forward and backward. A thread keeps the potentials of its neurons in registers. The forward pass
// reads the current and writes the spikes. The backward pass reads the current again and computes the potentials again,
// which moves less memory than storing them in the forward pass. Tensors are [T, neurons]; potentials are float.
//
// Macros: T, and those of elements.cuh and neuron.cuh; SPIKE, the type of the spikes, which inference may want as bytes.
// A pointer may be null only where a comment says so.

#ifndef SPIKE
#define SPIKE ELEMENT
#endif

extern "C" __global__ void lif_forward(
    const ELEMENT* __restrict__ x, const float* __restrict__ v_first,  // v_first may be null: the resting potential
    SPIKE* __restrict__ spikes, float* __restrict__ v_last, float* __restrict__ v_seq,  // v_seq may be null
    index_t neurons, index_t x_step,  // elements from one step of x to the next: neurons, or 0 if all are the same
    float tau, float decay, float threshold, float rest, float a, float b, float c) {
  const Neuron neuron = {tau, decay, threshold, rest, a, b, c};
  const index_t last = last_pack(neurons / LANES);
  for (index_t pack = first_pack(neurons / LANES); pack < last; pack += next_pack()) {
    const index_t i = pack * LANES;
    float v[LANES];
    if (v_first) load(v_first + i, v);
    else EACH_LANE v[l] = rest;
    EACH_STEP {
      const Input<ELEMENT> current(x + t * x_step + i);
      Output<SPIKE> fired(spikes + t * neurons + i);
      EACH_LANE {
        const float h = charge(neuron, v[l], current[l]), s = fire(neuron, h);
        v[l] = reset(neuron, h, s);
        fired.set(l, s);
      }
      if (v_seq) store(v, v_seq + t * neurons + i);
    }
    store(v, v_last + i);
  }
}

extern "C" __global__ void lif_backward(
    const ELEMENT* __restrict__ grad_spikes, const float* __restrict__ grad_v_last,  // grad_v_last may be null
    const float* __restrict__ grad_v_seq,  // may be null
    const ELEMENT* __restrict__ x, const float* __restrict__ v_first,  // v_first may be null
    ELEMENT* __restrict__ grad_x, float* __restrict__ grad_v_first,  // grad_v_first may be null
    index_t neurons, index_t x_step, float tau, float decay, float threshold, float rest, float a, float b, float c) {
  const Neuron neuron = {tau, decay, threshold, rest, a, b, c};
  const index_t last = last_pack(neurons / LANES);
  float grad_v[LANES];
  EACH_LANE grad_v[l] = 0.0f;
  for (index_t pack = first_pack(neurons / LANES); pack < last; pack += next_pack()) {
    const index_t i = pack * LANES;
    float h[T][LANES], v[LANES];
    if (v_first) load(v_first + i, v);
    else EACH_LANE v[l] = rest;
    EACH_STEP {
      const Input<ELEMENT> current(x + t * x_step + i);
      EACH_LANE {
        h[t][l] = charge(neuron, v[l], current[l]);
        v[l] = reset(neuron, h[t][l], fire(neuron, h[t][l]));
      }
    }
    float kept[LANES], leaked[LANES];  // their sum is the gradient of the potential after the step's reset
    if (grad_v_last) load(grad_v_last + i, kept);
    else EACH_LANE kept[l] = 0.0f;
    EACH_LANE leaked[l] = 0.0f;
    EACH_STEP_BACK {
      const Input<ELEMENT> grad_s(grad_spikes + t * neurons + i);
      if (grad_v_seq) load(grad_v_seq + t * neurons + i, grad_v);
      Output<ELEMENT> grad(grad_x + t * neurons + i);
      EACH_LANE {
        const float grad_h = grad_charged(neuron, h[t][l], grad_s[l], (grad_v[l] + kept[l]) + leaked[l]);
        grad.set(l, grad_input(neuron, grad_h));
        kept[l] = grad_kept(neuron, grad_h);
        leaked[l] = grad_leaked(neuron, grad_h);
      }
    }
    if (grad_v_first) {
      EACH_LANE kept[l] += leaked[l];
      store(kept, grad_v_first + i);
    }
  }
}
