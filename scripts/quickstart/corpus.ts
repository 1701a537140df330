/**
 * The text that every clone has: the documentation of the installed dependencies. Markdown files are copied,
 * each text once (licences and changelogs repeat), into a folder that the server may import from.
 */
import { createHash } from "node:crypto";
import { globSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** Below this a file is a badge or a pointer elsewhere; above it, usually a generated table. */
const MIN_FILE_BYTES = 500;
const MAX_FILE_BYTES = 400_000;
const MAX_CORPUS_BYTES = 12_000_000;

/** @returns what was gathered; `directory` holds one file per document. */
export function gatherCorpus(nodeModules: string, directory: string): { documents: number; bytes: number } {
  mkdirSync(directory, { recursive: true });
  const seen = new Set<string>();
  let bytes = 0;
  // Sorted, so that the same installation gives the same corpus.
  for (const name of globSync("**/*.{md,markdown}", { cwd: nodeModules }).sort()) {
    const path = join(nodeModules, name);
    const size = statSync(path).size;
    if (size < MIN_FILE_BYTES || size > MAX_FILE_BYTES || bytes + size > MAX_CORPUS_BYTES) continue;
    const text = readFileSync(path);
    const digest = createHash("sha256").update(text).digest("hex");
    if (seen.has(digest)) continue;
    writeFileSync(join(directory, `${String(seen.size).padStart(5, "0")}.md`), text);
    seen.add(digest);
    bytes += size;
  }
  return { documents: seen.size, bytes };
}
