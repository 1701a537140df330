/**
 * Libraries of this machine through koffi, both optional: where one is missing the error says which, and where it can
 * be had. Loaded at run time only, so that everything else works without them.
 */
import type koffi from "koffi";
import type { LibraryHandle } from "koffi";
import { CodedError } from "../../../ops/errors.ts";

type Koffi = typeof koffi;

export interface Library {
  readonly file: string;
  readonly handle: LibraryHandle;
  /** @returns the 32-bit integers that lie at a pointer of the library. */
  integersAt(pointer: unknown, count: number): readonly number[];
}

export interface LibrarySearch {
  /** What it is, for the message: `BLAS library`. */
  readonly title: string;
  /** Files to try in turn. */
  readonly files: readonly string[];
  /** Where it can be had, for the message. */
  readonly source: string;
  /** Environment variables that it reads when it is loaded, set unless the user has set them. */
  readonly environment: Readonly<Record<string, string>>;
}

/**
 * @returns the first library of the list that loads
 * @throws backend_unavailable naming what is missing and where it can be had
 */
export async function openLibrary({ title, files, source, environment }: LibrarySearch): Promise<Library> {
  const { load, decode, array } = await importKoffi();
  if (process.platform !== "win32") {
    // Through the C library: a library that is loaded later does not see what is put into `process.env`.
    const setenv = load(null).func("int setenv(const char *, const char *, int)");
    for (const [name, value] of Object.entries(environment)) setenv(name, value, 0);
  }
  const reasons: string[] = [];
  for (const file of files) {
    try {
      const handle = load(file);
      return { file, handle, integersAt: (pointer, count) => decode(pointer, array("int", count)) as number[] };
    } catch (error) {
      reasons.push(error instanceof Error ? error.message : String(error));
    }
  }
  const tried = files.length > 0 ? files.join(", ") : `none is known for ${process.platform}`;
  const message = `no ${title} was found (${tried}); ${source}`;
  throw new CodedError("backend_unavailable", message, { details: { reasons } });
}

async function importKoffi(): Promise<Koffi> {
  try {
    return (await import("koffi")).default;
  } catch (cause) {
    const where = "npm installs it as an optional dependency, with a binary for most platforms";
    throw new CodedError("backend_unavailable", `the package koffi does not load; ${where}`, { cause });
  }
}
