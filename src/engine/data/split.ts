/**
 * Which documents are held out, and in what order the others are trained on: functions of the seed and of the
 * documents' content alone, so that neither the machine, the clock nor the number of workers matters. A
 * document is held out when the hash of seed and content falls below the fraction; copies of a document
 * therefore stay on one side. Where all documents are the same one, it is cut by position instead, and its
 * tail is held out. Every sequence the loader makes runs through many documents; so the order is a shuffle,
 * by another hash.
 */
import { createHash } from "node:crypto";
import { CodedError } from "../../ops/errors.ts";
import type { DocumentIndex } from "./documentIndex.ts";

/** `all` of a document, or the side of the cut where one document is split by position. */
export type DocumentPart = "all" | "head" | "tail";

export interface SplitPart {
  /** Indices of documents, in the order in which they are packed. */
  readonly documents: Uint32Array;
  readonly part: DocumentPart;
}

export interface Split {
  readonly train: SplitPart;
  readonly validation: SplitPart;
}

/** 48 bits of a keyed hash, as a number in [0, 1). */
function unitHash(key: string, content: Uint8Array): number {
  return createHash("sha256").update(key).update(content).digest().readUIntBE(0, 6) / 2 ** 48;
}

/** Sorts documents by a keyed hash of content and index: a seeded shuffle that needs no random stream. */
function shuffle(documents: readonly number[], index: DocumentIndex, seed: number): Uint32Array {
  const keys = new Float64Array(index.length);
  for (const document of documents) keys[document] = unitHash(`order:${seed}:${document}:`, index.hash(document));
  return Uint32Array.from(documents).sort((a, b) => (keys[a] ?? 0) - (keys[b] ?? 0) || a - b);
}

/** Where the content of every document falls between 0 and 1; copies fall on the same place. */
function findPlaces(index: DocumentIndex, seed: number): Float64Array {
  const places = new Float64Array(index.length);
  for (let document = 0; document < index.length; document++) {
    places[document] = unitHash(`split:${seed}:`, index.hash(document));
  }
  return places;
}

/**
 * @param fraction share of the documents to hold out, 0 to below 1; above 0, at least one is held out and at
 *   least one is not
 * @param seed an integer
 * @throws dataset_invalid when there is no document
 */
export function splitDocuments(index: DocumentIndex, fraction: number, seed: number): Split {
  if (index.length === 0) throw new CodedError("dataset_invalid", "the dataset has no document with text in it");
  const all = Array.from({ length: index.length }, (_, document) => document);
  if (fraction === 0) {
    return {
      train: { documents: shuffle(all, index, seed), part: "all" },
      validation: { documents: new Uint32Array(0), part: "all" },
    };
  }
  const places = findPlaces(index, seed);
  const lowest = places.reduce((least, place) => Math.min(least, place), 1);
  const highest = places.reduce((most, place) => Math.max(most, place), 0);
  if (lowest === highest) {
    const documents = Uint32Array.from(all);
    return { train: { documents, part: "head" }, validation: { documents, part: "tail" } };
  }
  const train: number[] = [];
  const validation: number[] = [];
  for (const document of all) {
    const place = places[document] ?? 0;
    const heldOut = place !== highest && (place < fraction || place === lowest);
    (heldOut ? validation : train).push(document);
  }
  return {
    train: { documents: shuffle(train, index, seed), part: "all" },
    validation: { documents: shuffle(validation, index, seed), part: "all" },
  };
}
