/**
 * The exponential function rounded to the nearest double, as the C library that Python uses gives it. That of
 * JavaScript engines is off by the last bit now and then, which would show in perplexities that are to equal
 * another program's. Computed with pairs of doubles (about 100 bits). Source: Dekker 1971, "A floating-point
 * technique for extending the available precision".
 */

/** An unevaluated sum of a double and a much smaller one. */
type Pair = readonly [high: number, low: number];

/** ln 2 in two parts; the first has so few bits that its product with any exponent is exact. */
const ln2High = 6.9314718036912381649e-1;
const ln2Low = 1.90821492927058770002e-10;
/** The argument is halved so many times, and the result squared as often. */
const halvings = 8;
/** Terms of the series; the first one left out is below 1e-33 for arguments below ln 2 / 512. */
const terms = 11;

function twoSum(a: number, b: number): Pair {
  const sum = a + b;
  const shifted = sum - a;
  return [sum, a - (sum - shifted) + (b - shifted)];
}

function split(a: number): Pair {
  const scaled = a * 134217729; // 2^27 + 1
  const high = scaled - (scaled - a);
  return [high, a - high];
}

function twoProduct(a: number, b: number): Pair {
  const product = a * b;
  const [aHigh, aLow] = split(a);
  const [bHigh, bLow] = split(b);
  return [product, aLow * bLow - (product - aHigh * bHigh - aLow * bHigh - aHigh * bLow)];
}

function add(a: Pair, b: Pair): Pair {
  const [high, low] = twoSum(a[0], b[0]);
  return twoSum(high, low + a[1] + b[1]);
}

function multiply(a: Pair, b: Pair): Pair {
  const [high, low] = twoProduct(a[0], b[0]);
  return twoSum(high, low + a[0] * b[1] + a[1] * b[0]);
}

function divideByInteger(a: Pair, divisor: number): Pair {
  const quotient = a[0] / divisor;
  const [product, error] = twoProduct(quotient, divisor);
  return twoSum(quotient, (a[0] - product - error + a[1]) / divisor);
}

/** @returns e to the power of x, correctly rounded but for cases too close to call at 100 bits. */
export function exactExp(x: number): number {
  // Outside, the result is 0, infinite, NaN, or so small that doubles hold only part of its bits.
  if (!(x > -700 && x < 709)) return Math.exp(x);
  const exponent = Math.round(x / Math.LN2);
  const product = twoProduct(exponent, ln2Low);
  const reduced = add(twoSum(x, -exponent * ln2High), [-product[0], -product[1]]);
  const scale = 2 ** -halvings;
  const r: Pair = [reduced[0] * scale, reduced[1] * scale];
  let series: Pair = [1, 0];
  for (let n = terms; n >= 1; n--) series = add([1, 0], divideByInteger(multiply(r, series), n));
  for (let i = 0; i < halvings; i++) series = multiply(series, series);
  return series[0] * 2 ** exponent;
}
