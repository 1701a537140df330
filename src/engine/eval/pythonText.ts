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

/** `str.capitalize()`: the first character in title case, all others in lower case. */
export function capitalize(text: string): string {
  const [first] = text;
  if (first === undefined) return "";
  // Lower case depends on what stands around a character (the Greek sigma), so it is taken of the whole.
  return titleCase(first) + text.toLowerCase().slice(first.toLowerCase().length);
}

const iota = "\u0399";
const iotaBelow = "\u0345";

/** Title case of one character, which JavaScript has no function for: upper case but for a few letters. */
function titleCase(character: string): string {
  const upper = character.toUpperCase();
  const code = character.codePointAt(0) ?? 0;
  // Ligatures of two letters: the middle one of each three has only its first letter in upper case.
  if (code >= 0x1c4 && code <= 0x1cc) return String.fromCharCode(code - ((code - 0x1c4) % 3) + 1);
  if (code >= 0x1f1 && code <= 0x1f3) return "\u01f2";
  // Georgian has upper case, but does not begin sentences with it; the n after an apostrophe has no lower case.
  if (code >= 0x10d0 && code <= 0x10ff) return character;
  if (code === 0x149) return upper;
  const [head = "", ...tail] = upper;
  // Greek letters with an iota below keep it below.
  if (tail.at(-1) === iota) {
    return tail.length === 1 ? (head + iotaBelow).normalize("NFC") : head + tail.slice(0, -1).join("") + iotaBelow;
  }
  return head + tail.join("").toLowerCase();
}
