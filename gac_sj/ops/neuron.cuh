// One step of the LIF neuron and its derivative, in the same order of operations as lif/reference.py. It is compiled
// without contraction (FMA), so that both agree bit for bit.
//
// Macros: DECAY_INPUT, SOFT_RESET, DETACH_RESET, STRICT (0 or 1), and DERIVATIVE, the derivative of the surrogate
// function as an expression of x = h - threshold and the numbers a, b, c.

struct Neuron { float tau, decay, threshold, rest, a, b, c; };

// Functions for DERIVATIVE.
__device__ inline float clamp_min(float x, float low) { return x < low ? low : x; }  // propagates NaN, as torch does
__device__ inline float square(float x) { return x * x; }
__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ inline float sigmoid_slope(float x) { return (1.0f - sigmoid(x)) * sigmoid(x); }

__device__ inline float charge(const Neuron& n, float v, float x) {
  return DECAY_INPUT ? v + (x - (v - n.rest)) / n.tau : (n.rest + n.decay * (v - n.rest)) + x;
}

__device__ inline float fire(const Neuron& n, float h) {
  const float x = h - n.threshold;
  return (STRICT ? x > 0.0f : x >= 0.0f) ? 1.0f : 0.0f;
}

__device__ inline float reset(const Neuron& n, float h, float s) {
  return SOFT_RESET ? h - s * n.threshold : (1.0f - s) * h + s * n.rest;
}

// The gradient of the charged potential h, from the gradients of the spike and of the potential after the reset.
__device__ inline float grad_charged(const Neuron& n, float h, float grad_s, float grad_v) {
  const float s = fire(n, h), x = h - n.threshold, a = n.a, b = n.b, c = n.c;
  if (!DETACH_RESET) grad_s = SOFT_RESET ? grad_s + -grad_v * n.threshold : (grad_s + grad_v * n.rest) + -(grad_v * h);
  return (SOFT_RESET ? grad_v : grad_v * (1.0f - s)) + (DERIVATIVE) * grad_s;
}

__device__ inline float grad_input(const Neuron& n, float grad_h) { return DECAY_INPUT ? grad_h / n.tau : grad_h; }

// The gradient of the potential before the charge: two terms, because autograd adds them one after the other.
__device__ inline float grad_kept(const Neuron& n, float grad_h) { return DECAY_INPUT ? grad_h : n.decay * grad_h; }
__device__ inline float grad_leaked(const Neuron& n, float grad_h) { return DECAY_INPUT ? -(grad_h / n.tau) : 0.0f; }
