/** Parquet files as the hub's conversion makes them, by a real writer. */
import { parquetWriteBuffer } from "hyparquet-writer";

type Row = Readonly<Record<string, unknown>>;

/** @returns a file of flat columns. @param types column -> type, in the order of the columns */
export function flatParquet(
  rows: readonly Row[],
  types: Readonly<Record<string, "STRING" | "INT64" | "INT32">>,
): Uint8Array {
  const columnData = Object.entries(types).map(([name, type]) => {
    const data = rows.map((row) => (type === "INT64" ? BigInt(row[name] as number) : row[name]));
    return { name, type, data };
  });
  return new Uint8Array(parquetWriteBuffer({ columnData, rowGroupSize: 2 }));
}

const text = { type: "BYTE_ARRAY", converted_type: "UTF8", repetition_type: "OPTIONAL" } as const;
const listOf = (name: string) =>
  [
    { name, converted_type: "LIST", repetition_type: "OPTIONAL", num_children: 1 },
    { name: "list", repetition_type: "REPEATED", num_children: 1 },
    { name: "element", ...text },
  ] as const;

/** @returns ARC's file: `choices` holds two lists. */
export function arcParquet(rows: readonly Row[]): Uint8Array {
  const names = ["id", "question", "choices", "answerKey"];
  const columnData = names.map((name) => ({ name, data: rows.map((row) => row[name]) }));
  const schema = [
    { name: "schema", num_children: 4 },
    { name: "id", ...text },
    { name: "question", ...text },
    { name: "choices", repetition_type: "OPTIONAL" as const, num_children: 2 },
    ...listOf("text"),
    ...listOf("label"),
    { name: "answerKey", ...text },
  ];
  return new Uint8Array(parquetWriteBuffer({ columnData, schema }));
}
