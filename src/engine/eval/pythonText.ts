/**
 * Python's idea of text where it differs from JavaScript's, for prompts and counts must equal those of a
 * program in Python to the last character. White space: Python counts U+001C to U+001F and U+0085, JavaScript
 * counts U+FEFF. Length: Python counts code points, JavaScript UTF-16 units. Source: CPython, `str.isspace`.
 */

/** The inside of a character class that matches what Python's `\s` and `str.strip` match. */
export const pythonSpace = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";

const leading = new RegExp(`^[${pythonSpace}]+`);
const oneSpace = new RegExp(`[${pythonSpace}]`);
const spaces = new RegExp(`[${pythonSpace}]+`);

/** `str.lstrip()` */
export function trimStart(text: string): string {
  return text.replace(leading, "");
}

/** `str.rstrip()`, without the quadratic search that a pattern anchored at the end would be. */
export function trimEnd(text: string): string {
  let end = text.length;
  while (end > 0 && oneSpace.test(text.charAt(end - 1))) end--;
  return text.slice(0, end);
}

/** `str.strip()` */
export function trim(text: string): string {
  return trimEnd(trimStart(text));
}

/** `re.split(r"\s+", text)`: white space at the ends makes empty pieces there. */
export function splitAtSpaces(text: string): string[] {
  return text.split(spaces);
}

/** `len(text)` */
export function codePointLength(text: string): number {
  let length = 0;
  for (const _ of text) length++;
  return length;
}
