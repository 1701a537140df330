/**
 * Reads logs of samples back: a page at a time, from where the page before ended, or as one stream of lines. A page
 * costs what it holds, wherever it lies in the log.
 */
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { CodedError } from "../../ops/errors.ts";
import type { SampleRecord } from "./sampleLog.ts";

export type { SampleRecord } from "./sampleLog.ts";

/** A log, and where it lies. */
export interface SampleLogFile {
  readonly path: string;
  readonly sizeBytes: number;
}

export interface SamplePage {
  readonly samples: readonly SampleRecord[];
  /** Byte at which the next page begins; the size of the file when there is none. */
  readonly end: number;
}

const chunkBytes = 64 * 1024;
const newline = 10;

/**
 * @param start 0, or the `end` of a page before
 * @param limit lines, at least 1
 * @throws invalid_request when no line begins at `start`; store_unavailable when the log is not what was written
 */
export async function readSamplePage(log: SampleLogFile, start: number, limit: number): Promise<SamplePage> {
  if (!(start >= 0 && start <= log.sizeBytes)) throw badCursor();
  const file = await open(log.path).catch((cause: unknown) => {
    throw new CodedError("store_unavailable", "the log of samples cannot be read", { cause });
  });
  try {
    if (start > 0) {
      const before = await file.read(Buffer.alloc(1), 0, 1, start - 1);
      if (before.buffer[0] !== newline) throw badCursor();
    }
    const samples: SampleRecord[] = [];
    let held = Buffer.alloc(0);
    let end = start;
    while (samples.length < limit && end < log.sizeBytes) {
      const at = held.indexOf(newline);
      if (at >= 0) {
        samples.push(JSON.parse(held.toString("utf8", 0, at)) as SampleRecord);
        end += at + 1;
        held = held.subarray(at + 1);
        continue;
      }
      const { bytesRead, buffer } = await file.read(Buffer.alloc(chunkBytes), 0, chunkBytes, end + held.length);
      if (bytesRead === 0) throw new CodedError("store_unavailable", "the log of samples ends within a line");
      held = Buffer.concat([held, buffer.subarray(0, bytesRead)]);
    }
    return { samples, end };
  } finally {
    await file.close();
  }
}

function badCursor(): CodedError {
  const detail = "is not the cursor of a page of these samples";
  return new CodedError("invalid_request", `/after: ${detail}`, { fields: [{ pointer: "/after", detail }] });
}

/**
 * All lines of several logs, one after another, as fast as they are taken.
 * @param options `signal` ends the stream early; `onEnd` is told once when it has ended in any way
 */
export function streamSamples(
  logs: readonly SampleLogFile[],
  { signal, onEnd }: { signal: AbortSignal; onEnd: () => void },
): ReadableStream<Uint8Array<ArrayBuffer>> {
  const chunks = readAll(logs, signal);
  let open = true;
  const end = (): void => {
    if (open) onEnd();
    open = false;
  };
  return new ReadableStream<Uint8Array<ArrayBuffer>>(
    {
      async pull(controller) {
        try {
          const { done, value } = await chunks.next();
          if (!done) return controller.enqueue(value);
          controller.close();
        } catch (error) {
          controller.error(error);
        }
        end();
      },
      async cancel() {
        await chunks.return();
        end();
      },
    },
    { highWaterMark: 0 },
  );
}

async function* readAll(
  logs: readonly SampleLogFile[],
  signal: AbortSignal,
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  for (const { path } of logs) {
    for await (const chunk of createReadStream(path, { signal })) yield new Uint8Array(chunk as Buffer);
  }
}
