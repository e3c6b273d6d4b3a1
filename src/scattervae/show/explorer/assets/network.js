"use strict";
// The model, in float64 on its float32 weights: what scattervae.model.network, posterior and calibration compute in Python.
class Network {
  constructor(about, numbers) {
    this.about = about;
    this.numbers = numbers;
    this.mean = Float64Array.from(about.mean);
    this.std = Float64Array.from(about.std);
    this.n = about.n_coeffs;
  }

  array({ at, shape }) { return this.numbers.subarray(at, at + shape.reduce((a, b) => a * b, 1)); }

  /** Through the layers, one star. */
  through(layers, x) {
    for (const layer of layers) {
      if (layer.kind === "linear") x = linear(this.array(layer.weight), this.array(layer.bias), x);
      else if (layer.kind === "gelu") x = x.map(gelu);
      else if (layer.kind === "norm") x = normalised(this.array(layer.weight), this.array(layer.bias), layer.eps, x);
      else { const inner = this.through(layer.layers, x); x = x.map((v, i) => v + inner[i]); }
    }
    return x;
  }

  /** Mean and scatter of the coefficients at a latent vector, in training standard deviations. */
  decode(z) {
    const z64 = Float64Array.from(z), { scatter_link: link, scatter_floor: floor, scatter_factor: factor } = this.about;
    const positive = { softplus: (v) => (v > 20 ? v : Math.log1p(Math.exp(v))), exp: Math.exp, sigmoid: (v) => 1 / (1 + Math.exp(-v)) }[link];
    const factors = factor ? this.array(factor) : null;
    const scatter = this.through(this.about.scatter_estimator, z64).map((v, i) => (positive(v) + floor) * (factors ? factors[i] : 1));
    return { mean: this.through(this.about.decoder, z64), scatter };
  }

  /** The posterior {mean, log_variance, sd} of coefficients with errors; missing ones have x = 0 and an infinite error. */
  encode(x, errors) {
    const n = this.about.n_latent, [low, high] = this.about.log_variance_limits;
    const out = this.through(this.about.encoder, this.about.encoder_sees === "errors" ? withErrors(x, errors) : Float64Array.from(x));
    const mean = out.slice(0, n), logVariance = out.slice(n, 2 * n).map((v) => Math.min(Math.max(v, low), high));
    const coupling = Array.from({ length: n }, () => new Float64Array(n));
    if (this.about.posterior === "correlated") {
      for (let k = 1, i = 2 * n; k < n; k++) for (let j = 0; j < k; j++) coupling[k][j] = out[i++];
    }
    const sd = () => Float64Array.from(coupling, (row, k) => Math.sqrt(row.reduce((sum, c, j) => sum + c * c * Math.exp(logVariance[j]), Math.exp(logVariance[k]))));
    if (this.about.width_offset) this.widen(sd(), logVariance, coupling, errors, "width");
    if (this.about.refined_offset) return this.refine(x, errors, mean, rootOf(logVariance, coupling));
    return { mean, log_variance: logVariance, coupling, sd: sd() };
  }

  /** -ln p(x, z) at z, its gradient, and the Fisher information; slopes are central differences. */
  look(x, errors, z, step = 1e-4) {
    const n = z.length, { mean, scatter } = this.decode(z), moved = (k, by) => this.decode(z.map((v, j) => (j === k ? v + by : v)));
    const slopes = Array.from(z, (_, k) => {
      const [up, down] = [moved(k, step), moved(k, -step)], slope = (name) => up[name].map((v, i) => (v - down[name][i]) / (2 * step));
      return { mean: slope("mean"), scatter: slope("scatter") };
    });
    let loss = 0.5 * z.reduce((sum, v) => sum + v * v, 0);
    const gradient = Float64Array.from(z), fisher = Array.from({ length: n }, (_, k) => Float64Array.from({ length: n }, (_, j) => +(j === k)));
    for (let i = 0; i < this.n; i++) {
      if (!Number.isFinite(errors[i])) continue;
      const weight = 1 / (errors[i] ** 2 + scatter[i] ** 2), residual = x[i] - mean[i], chi2 = residual ** 2 * weight;
      loss += 0.5 * (chi2 - Math.log(weight));
      for (let k = 0; k < n; k++) {
        const a = slopes[k].mean[i], b = slopes[k].scatter[i];
        gradient[k] += -residual * weight * a + scatter[i] * weight * (1 - chi2) * b;
        for (let j = 0; j < n; j++) fisher[k][j] += weight * a * slopes[j].mean[i] + 2 * (scatter[i] * weight) ** 2 * b * slopes[j].scatter[i];
      }
    }
    return { z, loss, gradient, fisher };
  }

  /** The encoder's posterior refined, as scattervae.science.exact_posterior.refine_cheaply does, with its law of widths. */
  refine(x, errors, mean, root) {
    const descended = (here, steps) => {
      for (let i = 0, rate = 1; i < steps; i++) {
        const half = here.z.map((_, k) => root.reduce((sum, row, r) => sum + row[k] * here.gradient[r], 0));
        const there = this.look(x, errors, here.z.map((v, k) => v - rate * root[k].reduce((sum, l, j) => sum + l * half[j], 0)));
        if (there.loss < here.loss) { here = there; rate = 1; } else rate /= 2;
      }
      return here;
    };
    const near = descended(this.look(x, errors, mean), 4);
    root = choleskyRoot(inverse(this.look(x, errors, near.z, 0.01).fisher));
    const z = descended(near, 1).z, coupling = root.map((row, k) => row.map((v, j) => (j < k ? v / root[j][j] : 0)));
    const logVariance = Float64Array.from(root, (row, k) => 2 * Math.log(row[k])), sd = widthsOf(root);
    this.widen(sd, logVariance, coupling, errors, "refined");
    return { mean: z, log_variance: logVariance, sd: widthsOf(rootOf(logVariance, coupling)) };
  }

  /** A law's numbers for the bands that the star has. */
  lawOf(name, errors) {
    const [laws, n] = this.about[name].shape, nBp = this.about.n_bp;
    const gone = (from, to) => { for (let i = from; i < to; i++) if (errors[i] !== Infinity) return 0; return 1; };
    const kind = Math.min((gone(0, nBp) + 2 * gone(nBp, this.n)) % 3, laws - 1);
    return this.array(this.about[name]).subarray(kind * n, kind * n + n);
  }

  /** A calibration's law of widths, by which bands the star has. */
  widen(sd, logVariance, coupling, errors, law) {
    const offset = this.lawOf(`${law}_offset`, errors), slope = this.lawOf(`${law}_slope`, errors);
    const scale = Float64Array.from(sd, (v, k) => offset[k] + slope[k] * Math.log(v));
    for (let k = 0; k < sd.length; k++) {
      logVariance[k] += 2 * scale[k];
      for (let j = 0; j < k; j++) coupling[k][j] *= Math.exp(scale[k] - scale[j]);
    }
  }

  /** How well the posterior mean fits: chi^2 a coefficient, and the score of a calibrated model. */
  fit(x, errors, posterior, predicted, gFlux) {
    const nBp = this.about.n_bp, sums = { chi2: 0, known: 0, scatter: [0, 0], variance: [0, 0] };
    for (let i = 0; i < this.n; i++) {
      const band = i < nBp ? 0 : 1;
      sums.scatter[band] += Math.log10(predicted.scatter[i]);
      if (!Number.isFinite(errors[i])) continue;
      const variance = errors[i] ** 2 + predicted.scatter[i] ** 2;
      sums.chi2 += (x[i] - predicted.mean[i]) ** 2 / variance;
      sums.variance[band] += Math.log(variance);
      sums.known++;
    }
    const sizes = [nBp, this.n - nBp], chi2 = sums.chi2 / sums.known;
    const summaries = [...sums.scatter.map((v, b) => v / sizes[b]), ...sums.variance.map((v, b) => v / sizes[b])];
    return { reduced_chi2: chi2, score: this.about.score ? this.score(chi2, [...posterior.mean, ...posterior.log_variance, ...summaries], gFlux) : null };
  }

  score(chi2, features, gFlux) {
    const part = (name) => this.array(this.about.score[name]), [centre, scale, quantiles] = ["centre", "scale", "quantiles"].map(part);
    let h = Float64Array.from(features, (v, i) => (v - centre[i]) / scale[i]);
    for (const name of ["first", "second", "last"]) {
      const weights = part(name), [rows, width] = this.about.score[name].shape;
      h = Float64Array.from({ length: rows }, (_, r) => {
        let sum = weights[r * width + width - 1];
        for (let i = 0; i < width - 1; i++) sum += weights[r * width + i] * h[i];
        return name === "last" ? sum : gelu(sum);
      });
    }
    const limits = this.about.score.limits ? part("limits") : [Infinity, Infinity];
    const u = (Math.cbrt(chi2) - Math.min(h[0], limits[0])) * Math.exp(-Math.min(h[1], limits[1])), n = quantiles.length;
    if (this.about.observed?.quantiles.length) return this.scoreAmongReal(u, this.about.g_zero_point - 2.5 * Math.log10(gFlux));
    let right = quantiles.findIndex((q) => q >= u);
    right = Math.min(Math.max(right < 0 ? n : right, 1), n - 1);
    const below = (u - quantiles[right - 1]) / Math.max(quantiles[right] - quantiles[right - 1], 1e-6);
    return 1 - (right - 1 + Math.min(Math.max(below, 0), 1)) / (n - 1);
  }

  /** The share of real stars with published coefficients and such G that fit worse. */
  scoreAmongReal(u, gMag) {
    const { g_mag: at, middle, spread, quantiles: q, n_stars: [n] } = this.about.observed;
    const t = (u - interpolated(gMag, [at, middle])) / interpolated(gMag, [at, spread]), last = q.length - 1;
    if (t > q[last]) return Math.exp(q[last] - t) / (n + 1);
    if (t < q[0]) return 1 - Math.exp(t - q[0]) / (n + 1);
    return 1 - interpolated(t, [q, q.map((_, i) => (1 + ((n - 1) * i) / last) / (n + 1))]);
  }

  /** A star of a file as the model sees it, {x, errors, g_flux}; an error says why it cannot be. */
  inputs(star) {
    const { basis, columns, design, encoder_sees: sees } = this.about, gaps = sees === "errors";
    const nothing = (n) => new Array(n).fill(NaN);
    const coeffs = [...(star.bp ?? nothing(basis.n_bp)), ...(star.rp ?? nothing(basis.n_rp))];
    const sigma = [...(star.bp_errors ?? nothing(basis.n_bp)), ...(star.rp_errors ?? nothing(basis.n_rp))];
    let gFlux = star.g_flux, gFrom = star.g_from;
    if (!(gFlux > 0) && design && design.band_weights && coeffs.every(Number.isFinite)) {
      const [g, bp, rp] = design.band_weights.map((band) => { const weights = this.array(band); return coeffs.reduce((sum, c, i) => sum + c * weights[i], 0); });
      gFlux = g;
      if (design.g_correction) {
        const [byG, byColour] = design.g_correction, correction = interpolated(this.about.g_zero_point - 2.5 * Math.log10(g), byG) + interpolated(-2.5 * Math.log10(bp / rp), byColour);
        gFlux *= 10 ** (0.4 * correction);
      }
      gFrom = "its coefficients";
    }
    if (!(gFlux > 0)) throw new Error(`star ${star.source_id}: no G flux, and none from its coefficients; add a column phot_g_mean_flux or phot_g_mean_mag`);
    const x = new Float64Array(this.n), errors = new Float64Array(this.n);
    let known = 0;
    for (let i = 0; i < this.n; i++) {
      const c = coeffs[columns[i]] / gFlux, e = sigma[columns[i]] / gFlux / this.std[i];
      const good = Number.isFinite(c) && Number.isFinite(e) && e > 0;
      known += good;
      x[i] = good ? clamp((c - this.mean[i]) / this.std[i]) : 0;
      errors[i] = good ? clamp(e) : Infinity;
    }
    if (known === 0) throw new Error(`star ${star.source_id}: no coefficient has a positive error; the columns bp_coefficient_errors and rp_coefficient_errors are needed`);
    if (known < this.n && !gaps) throw new Error(`star ${star.source_id}: ${this.n - known} of ${this.n} coefficients are missing; this model's encoder needs all of them`);
    return { x, errors, g_flux: gFlux, g_from: gFrom };
  }

  /** Flux [W m-2 nm-1] of coefficients in training standard deviations, with sigma where theirs is given. */
  flux(x, sigma, gFlux) {
    const { design, n_bp: nBp } = this.about;
    const missing = (from, to) => { for (let i = from; i < to; i++) if (Number.isFinite(sigma[i])) return false; return to > from; };
    const noBp = missing(0, nBp), noRp = missing(nBp, this.n);
    const matrix = this.array(noBp || noRp ? design.alone : design.matrix), n = this.n;
    const [from, to] = noBp ? [nBp, n] : noRp ? [0, nBp] : [0, n];
    const values = new Float64Array(design.grid_nm.length), errors = new Float64Array(values.length);
    for (let w = 0; w < values.length; w++) {
      let sum = 0, square = 0;
      for (let i = from; i < to; i++) {
        const a = matrix[w * n + i];
        sum += a * (x[i] * this.std[i] + this.mean[i]);
        square += Number.isFinite(sigma[i]) ? (a * sigma[i] * this.std[i]) ** 2 : 0;
      }
      values[w] = sum * gFlux * design.scale;
      errors[w] = Math.sqrt(square) * gFlux * design.scale;
    }
    return { values, errors };
  }
}

/** In straight lines between knots, constant outside; 0 where v is none. */
function interpolated(v, [knots, values]) {
  if (!(v > knots[0])) return Number.isNaN(v) ? 0 : values[0];
  const right = knots.findIndex((k) => k >= v);
  if (right < 0) return values[values.length - 1];
  return values[right - 1] + ((v - knots[right - 1]) / (knots[right] - knots[right - 1])) * (values[right] - values[right - 1]);
}

const clamp = (v) => Math.min(Math.max(v, -1e4), 1e4);

function linear(weight, bias, x) {
  const n = x.length, out = new Float64Array(bias.length);
  for (let r = 0; r < bias.length; r++) {
    let sum = bias[r];
    for (let i = 0, at = r * n; i < n; i++) sum += weight[at + i] * x[i];
    out[r] = sum;
  }
  return out;
}

/** Lower triangular L of the covariance L L^T. */
const rootOf = (logVariance, coupling) => coupling.map((row, k) => Float64Array.from(row, (c, j) => (j === k ? 1 : c) * Math.exp(0.5 * logVariance[j])));

const widthsOf = (root) => Float64Array.from(root, (row) => Math.hypot(...row));

function choleskyRoot(matrix) {
  const n = matrix.length, root = Array.from({ length: n }, () => new Float64Array(n));
  for (let k = 0; k < n; k++) for (let j = 0; j <= k; j++) {
    let sum = matrix[k][j];
    for (let i = 0; i < j; i++) sum -= root[k][i] * root[j][i];
    root[k][j] = j === k ? Math.sqrt(sum) : sum / root[j][j];
  }
  return root;
}

/** Of a symmetric positive definite matrix. */
function inverse(matrix) {
  const n = matrix.length, root = choleskyRoot(matrix), low = Array.from({ length: n }, () => new Float64Array(n));
  for (let k = 0; k < n; k++) for (let j = 0; j <= k; j++) {
    let sum = +(j === k);
    for (let i = j; i < k; i++) sum -= root[k][i] * low[i][j];
    low[k][j] = sum / root[k][k];
  }
  return low.map((_, k) => low.map((_, j) => low.reduce((sum, row) => sum + row[k] * row[j], 0)));
}

function normalised(weight, bias, eps, x) {
  const n = x.length, mean = x.reduce((a, b) => a + b, 0) / n;
  const spread = Math.sqrt(x.reduce((a, b) => a + (b - mean) ** 2, 0) / n + eps);
  return x.map((v, i) => ((v - mean) / spread) * weight[i] + bias[i]);
}

function withErrors(x, errors) {
  const n = x.length, seen = new Float64Array(3 * n);
  for (let i = 0; i < n; i++) {
    seen[i] = x[i] / (1 + errors[i]);
    seen[n + i] = Math.asinh(3 * x[i]) / 3;
    seen[2 * n + i] = Math.log(Math.min(Math.max(errors[i], 1e-6), 1e3));
  }
  return seen;
}

const gelu = (v) => 0.5 * v * erfc(-v * Math.SQRT1_2);

/** Complementary error function to 1.2e-7 of its value. Source: Press et al. (1992), Numerical Recipes, sect. 6.2, erfcc. */
function erfc(x) {
  const z = Math.abs(x), t = 1 / (1 + 0.5 * z);
  const c = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277];
  const answer = t * Math.exp(-z * z + c.reduceRight((sum, k) => sum * t + k, 0));
  return x >= 0 ? answer : 2 - answer;
}
