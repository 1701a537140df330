/**
 * Manifests of checkpoints lately read. A manifest of a large model is a megabyte of JSON and never changes, so
 * a list of checkpoints must not read and parse twenty of them each time. Bounded by the tensors it holds;
 * what was not used for longest goes first.
 */
import type { CheckpointManifest } from "../../ops/manifest.ts";

/** About 500 bytes each, so at most some 50 MB. */
const maxTensors = 100_000;

export class ManifestCache {
  /** In the order of use, oldest first. */
  readonly #manifests = new Map<string, CheckpointManifest>();
  #tensors = 0;

  get(id: string): CheckpointManifest | undefined {
    const manifest = this.#manifests.get(id);
    if (!manifest) return undefined;
    this.#manifests.delete(id);
    this.#manifests.set(id, manifest);
    return manifest;
  }

  set(id: string, manifest: CheckpointManifest): void {
    if (this.#manifests.has(id)) return;
    this.#manifests.set(id, manifest);
    this.#tensors += manifest.tensors.length;
    for (const [oldest, { tensors }] of this.#manifests) {
      if (this.#tensors <= maxTensors || oldest === id) break;
      this.#manifests.delete(oldest);
      this.#tensors -= tensors.length;
    }
  }

  get size(): number {
    return this.#manifests.size;
  }
}
