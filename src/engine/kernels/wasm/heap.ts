/**
 * The heap of the tfjs wasm backend as the kernels see it: where a tensor lies, a new tensor to write into, and
 * one scratch block that is kept from call to call and only ever grows to the largest size asked for. No view of
 * the memory is kept, because views die when it grows; addresses do not.
 *
 * Everything here that is not public tfjs API (`wasm.asm.memory`, `dataIdMap`, `registerTensor`) was checked
 * against @tensorflow/tfjs-backend-wasm 4.22.0, which package.json pins.
 */
import * as tf from "@tensorflow/tfjs";
import { CodedError, invariant } from "../../../ops/errors.ts";

/** Scratch beyond this is refused: no kernel needs it for a model that fits the 4 GiB heap. */
const maxScratchBytes = 2 ** 30;

/**
 * Larger tensors are refused without asking: the allocator of the tfjs heap grows it by a signed 32-bit number, so
 * that a request of 2 GiB or more shrinks it and may come back with memory that is somebody else's.
 */
const maxTensorBytes = 2 ** 31 - 2 ** 20;

interface TensorData {
  readonly id: number;
  readonly memoryOffset: number;
}

/** The part of BackendWasm that is used. */
interface WasmBackend extends tf.KernelBackend {
  readonly wasm: {
    readonly asm: { readonly memory: WebAssembly.Memory };
    readonly HEAPU8: Uint8Array;
    _malloc(sizeBytes: number): number;
    _free(address: number): void;
    readonly tfjs: {
      registerTensor(id: number, size: number, address: number): void;
      disposeData(id: number): void;
    };
  };
  readonly dataIdMap: { get(dataId: object): TensorData; delete(dataId: object): boolean };
  makeOutput(shape: number[], dtype: tf.DataType): tf.TensorInfo;
}

export class KernelHeap {
  readonly #backend: WasmBackend;
  #scratch = 0;
  #scratchBytes = 0;

  /** @throws backend_unavailable when the wasm backend of tfjs has not been set up */
  constructor() {
    const backend = tf.findBackend("wasm") as WasmBackend | null;
    if (!(backend?.wasm?.asm?.memory instanceof WebAssembly.Memory)) {
      throw new CodedError("backend_unavailable", "the wasm backend of tfjs is not set up: await tf.setBackend first");
    }
    this.#backend = backend;
  }

  get memory(): WebAssembly.Memory {
    return this.#backend.wasm.asm.memory;
  }

  /** @returns the address of a tensor's first byte; a tensor of another backend is moved here. */
  at(tensor: tf.Tensor, dtype: tf.DataType = "float32"): number {
    invariant(tensor.dtype === dtype, `a kernel got a ${tensor.dtype} tensor, wanted ${dtype}`);
    return this.#backend.dataIdMap.get(tensor.dataId).memoryOffset;
  }

  /**
   * @returns a new float32 tensor that the caller writes in whole: its bytes are whatever lay there.
   * @throws out_of_memory
   */
  output<T extends tf.Tensor>(shape: readonly number[]): T {
    const sizeBytes = tf.util.sizeFromShape([...shape]) * 4;
    if (sizeBytes <= maxTensorBytes) {
      const info = this.#backend.makeOutput([...shape], "float32");
      const { id, memoryOffset } = this.#backend.dataIdMap.get(info.dataId);
      if (sizeBytes === 0 || this.#holds(memoryOffset, sizeBytes)) {
        return tf.engine().makeTensorFromTensorInfo(info, this.#backend) as T;
      }
      this.#backend.wasm.tfjs.disposeData(id);
      this.#backend.dataIdMap.delete(info.dataId);
    }
    throw new CodedError("out_of_memory", `no room on the wasm heap for a tensor of shape [${shape.join()}]`);
  }

  /**
   * @returns the address of at least `floats` float32 of scratch, good until the next call of this method.
   * @throws out_of_memory
   */
  scratch(floats: number): number {
    const wantedBytes = floats * 4;
    if (wantedBytes <= this.#scratchBytes) return this.#scratch;
    const { wasm } = this.#backend;
    if (this.#scratch !== 0) wasm._free(this.#scratch);
    const found = wantedBytes > maxScratchBytes ? 0 : wasm._malloc(wantedBytes) >>> 0;
    const fits = this.#holds(found, wantedBytes);
    this.#scratch = fits ? found : 0;
    this.#scratchBytes = fits ? wantedBytes : 0;
    if (!fits) {
      throw new CodedError("out_of_memory", `no room on the wasm heap for ${wantedBytes} bytes of scratch`);
    }
    return this.#scratch;
  }

  /** @returns how many tensors share the bytes of this one, itself included. */
  owners(tensor: tf.Tensor): number {
    return this.#backend.refCount(tensor.dataId);
  }

  /**
   * @returns the address of a variable that is about to be changed in place. Bytes it still shares with another
   * tensor (its initial value) are copied first, and whatever tfjs derived from the old bytes (its packed
   * operands of matMul) is forgotten.
   */
  writable(variable: tf.Variable): number {
    if (this.#backend.refCount(variable.dataId) > 1) this.#unshare(variable);
    const { id, memoryOffset } = this.#backend.dataIdMap.get(variable.dataId);
    this.#backend.wasm.tfjs.disposeData(id);
    this.#backend.wasm.tfjs.registerTensor(id, variable.size, memoryOffset);
    return this.at(variable);
  }

  /**
   * Whether what the allocator handed out is there. Near the 4 GiB limit it returns 0, but has also been seen to
   * return addresses beyond the end of the memory; such a block must not be freed, or others would be cut from it.
   */
  #holds(address: number, sizeBytes: number): boolean {
    return address !== 0 && address + sizeBytes <= this.memory.buffer.byteLength;
  }

  #unshare(variable: tf.Variable): void {
    const source = this.at(variable);
    const copy = this.output(variable.shape);
    this.#backend.wasm.HEAPU8.copyWithin(this.at(copy), source, source + variable.size * 4);
    variable.assign(copy);
    copy.dispose();
  }
}
