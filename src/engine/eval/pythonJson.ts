/**
 * `json.dumps(value, indent=2, ensure_ascii=False)` of Python, byte for byte: the harness names a doc by the
 * SHA-256 of that text. Against `JSON.stringify` it keeps the order of keys that look like numbers, tells 2
 * from 2.0, keeps integers of any size, and writes floats as Python's `repr`. Source: CPython, `Lib/json` and
 * `float.__repr__`.
 */
import type { StrictValue } from "../checkpoint/strictJson.ts";
import { InexactNumber } from "../checkpoint/strictJson.ts";

const indentation = "  ";
/** Decimal exponents from which on `repr` writes a float with an exponent. */
const smallestFixed = -4;
const largestFixed = 15;

/** @returns `repr(value)` of a float, with JSON's words for what is not finite as Python spells them. */
export function pythonFloat(value: number): string {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value < 0 ? "-Infinity" : "Infinity";
  const sign = value < 0 || Object.is(value, -0) ? "-" : "";
  // Both languages write the shortest digits that read back as the same double.
  const [mantissa = "", power = ""] = Math.abs(value).toExponential().split("e");
  const digits = mantissa.replace(".", "");
  const exponent = Number(power);
  if (exponent < smallestFixed || exponent > largestFixed) {
    const size = String(Math.abs(exponent)).padStart(2, "0");
    return `${sign}${mantissa}e${exponent < 0 ? "-" : "+"}${size}`;
  }
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${digits}`;
  const padded = digits.padEnd(exponent + 2, "0");
  return `${sign}${padded.slice(0, exponent + 1)}.${padded.slice(exponent + 1)}`;
}

function pythonNumber({ text, value }: InexactNumber): string {
  if (/[.eE]/.test(text)) return pythonFloat(value);
  return text === "-0" ? "0" : text;
}

/** @param margin white space before the lines of an object or list within */
export function pythonJson(value: StrictValue, margin = ""): string {
  if (value instanceof InexactNumber) return pythonNumber(value);
  const inner = margin + indentation;
  if (Array.isArray(value))
    return enclose(
      "[",
      value.map((item) => pythonJson(item, inner)),
      "]",
      margin,
    );
  if (value instanceof Map) {
    const members = [...value].map(([key, member]) => `${JSON.stringify(key)}: ${pythonJson(member, inner)}`);
    return enclose("{", members, "}", margin);
  }
  return JSON.stringify(value);
}

function enclose(open: string, lines: readonly string[], close: string, margin: string): string {
  if (lines.length === 0) return open + close;
  const inner = `\n${margin}${indentation}`;
  return `${open}${inner}${lines.join(`,${inner}`)}\n${margin}${close}`;
}
