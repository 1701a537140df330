/**
 * Public ids: a prefix that names the kind, then 22 characters of Crockford's base32: 50 bits of time in
 * milliseconds (so that ids sort by age) and 60 random bits. Not secrets.
 */
import { randomBytes } from "node:crypto";

const alphabet = "0123456789abcdefghjkmnpqrstvwxyz";
const timeChars = 10;
const randomChars = 12;

export type IdPrefix = "ckpt" | "data" | "job" | "eval" | "key" | "worker";

/** @returns a new id such as `ckpt_01jc3v0q8rk2m4x7t9wzyab3de`. */
export function newId(prefix: IdPrefix): string {
  let time = Date.now();
  let timePart = "";
  for (let i = 0; i < timeChars; i++) {
    timePart = alphabet.charAt(time % 32) + timePart;
    time = Math.floor(time / 32);
  }
  // 256 is a multiple of 32, so the low five bits of a random byte are uniform
  const randomPart = Array.from(randomBytes(randomChars), (byte) => alphabet.charAt(byte & 31)).join("");
  return `${prefix}_${timePart}${randomPart}`;
}

/** @returns whether `text` has the form of an id of this kind; names never do. */
export function isId(text: string, prefix: IdPrefix): boolean {
  return new RegExp(`^${prefix}_[0-9a-z]{22}$`).test(text);
}
