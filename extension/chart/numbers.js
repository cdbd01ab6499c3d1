// How numbers are written on the axes and beside the curves.

/** @param {number} x - A position on the x axis. */
export function position(x) {
  return x.toLocaleString('en', { maximumFractionDigits: 3 });
}

/** @param {number} value - Written with four significant digits: 1.430, 12,000, 2.5e-4. */
export function reading(value) {
  const size = Math.abs(value);
  if (value === 0 || (size >= 1e-3 && size < 1000)) {
    return value === 0 ? '0' : value.toPrecision(4);
  }
  return size < 1e6 && size >= 1000
    ? value.toLocaleString('en', { maximumFractionDigits: 0 })
    : exponential(Number(value.toPrecision(4)));
}

/** @param {number} value - Written as shortly as an axis needs: 1.4, 20,000, 2e-4. */
export function tick(value) {
  const rounded = Number(value.toPrecision(6)); // 0.30000000000000004 is 0.3
  const size = Math.abs(rounded);
  return rounded !== 0 && (size < 1e-3 || size >= 1e6) ? exponential(rounded) : position(rounded);
}

/** @param {number} value */
function exponential(value) {
  return value.toExponential().replace('e+', 'e');
}

/**
 * Choose the ticks of a logarithmic axis: 1, 2 and 5 of each decade, or round steps when the
 * curve spans too little of one.
 *
 * @param {number} min
 * @param {number} max
 * @returns {number[]}
 */
export function logTicks(min, max) {
  const ticks = [];
  for (let decade = Math.floor(Math.log10(min)); 10 ** decade <= max; decade++) {
    for (const digit of max / min > 1e4 ? [1] : [1, 2, 5]) {
      ticks.push(digit * 10 ** decade);
    }
  }
  const inside = ticks.filter(value => value >= min && value <= max);
  if (inside.length >= 3) {
    return inside;
  }
  const step = 10 ** Math.floor(Math.log10(max - min));
  const nice = [0.1, 0.2, 0.5, 1, 2].map(part => part * step).find(s => (max - min) / s <= 6);
  const width = nice ?? step;
  const first = Math.ceil(min / width);
  return Array.from({ length: Math.floor(max / width) - first + 1 }, (_, i) => (first + i) * width);
}
