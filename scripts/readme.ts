/** The part of README that is made: the table of settings, between two markers. */
import { readFileSync, writeFileSync } from "node:fs";
import { settingsTable } from "../src/engine/settingsTable.ts";

const begin = "<!-- settings -->";
const end = "<!-- /settings -->";

/** @returns the marked block as it must stand in README. */
export function readmeSettings(): string {
  const rows = settingsTable.map(([variable, fallback, meaning]) => `| \`${variable}\` | ${fallback} | ${meaning} |`);
  return [begin, "| variable | default | meaning |", "|---|---|---|", ...rows, end].join("\n");
}

/** @returns `readme` with the block renewed. @throws Error when the markers are missing */
export function renewReadme(readme: string): string {
  const [from, to] = [readme.indexOf(begin), readme.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`README.md: no ${begin} ... ${end} block`);
  return readme.slice(0, from) + readmeSettings() + readme.slice(to + end.length);
}

if (import.meta.main) {
  const path = new URL("../README.md", import.meta.url);
  writeFileSync(path, renewReadme(readFileSync(path, "utf8")));
}
