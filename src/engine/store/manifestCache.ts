/**
 * What never changes of the checkpoints lately read: manifests and parents. A manifest of a large model is a megabyte
 * of JSON, so a list of checkpoints must not read and parse twenty of them each time. Bounded by the tensors it holds;
 * what was not used for longest goes first.
 */
import type { CheckpointManifest } from "../../ops/manifest.ts";
import type { CheckpointRow } from "./types.ts";

/** About 500 bytes each, so at most some 50 MB. */
const maxTensors = 100_000;

/** Written with the checkpoint, gone with it. */
export interface Constants {
  readonly manifest: CheckpointManifest;
  readonly parents: CheckpointRow["parents"];
}

export class ManifestCache {
  /** In the order of use, oldest first. */
  readonly #held = new Map<string, Constants>();
  #tensors = 0;

  get(id: string): Constants | undefined {
    const found = this.#held.get(id);
    if (!found) return undefined;
    this.#held.delete(id);
    this.#held.set(id, found);
    return found;
  }

  set(id: string, constants: Constants): void {
    if (this.#held.has(id)) return;
    this.#held.set(id, constants);
    this.#tensors += constants.manifest.tensors.length;
    for (const [oldest, { manifest }] of this.#held) {
      if (this.#tensors <= maxTensors || oldest === id) break;
      this.#held.delete(oldest);
      this.#tensors -= manifest.tensors.length;
    }
  }

  get size(): number {
    return this.#held.size;
  }
}
