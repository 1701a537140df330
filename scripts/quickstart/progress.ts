/**
 * Shows several running jobs at once: bars redrawn in place on a terminal, a line now and then elsewhere.
 */

const BAR_CHARACTERS = 24;
const REDRAW_MS = 100;
const PLAIN_LINE_EVERY_MS = 10_000;

export class Progress {
  readonly #rows = new Map<string, { fraction: number; note: string; done: boolean; plainAt: number }>();
  readonly #terminal = process.stdout.isTTY === true;
  #drawnRows = 0;
  #drawnAt = 0;

  update(name: string, fraction: number, note: string): void {
    const row = this.#rows.get(name) ?? { fraction: 0, note: "", done: false, plainAt: Date.now() };
    this.#rows.set(name, { ...row, fraction, note });
    if (this.#terminal) return this.#draw(false);
    if (Date.now() - row.plainAt < PLAIN_LINE_EVERY_MS) return;
    this.#rows.set(name, { fraction, note, done: false, plainAt: Date.now() });
    console.log(`  ${name.padEnd(20)} ${percent(fraction)}  ${note}`);
  }

  finish(name: string, note: string): void {
    this.#rows.set(name, { fraction: 1, note, done: true, plainAt: 0 });
    if (this.#terminal) this.#draw(true);
    else console.log(`  ${name.padEnd(20)} ${percent(1)}  ${note}`);
    if ([...this.#rows.values()].every((row) => row.done)) {
      this.#rows.clear();
      this.#drawnRows = 0;
    }
  }

  #draw(force: boolean): void {
    if (!force && Date.now() - this.#drawnAt < REDRAW_MS) return;
    this.#drawnAt = Date.now();
    if (this.#drawnRows > 0) process.stdout.write(`\x1b[${this.#drawnRows}A`);
    for (const [name, row] of this.#rows) {
      const filled = Math.round(row.fraction * BAR_CHARACTERS);
      const bar = "█".repeat(filled) + "░".repeat(BAR_CHARACTERS - filled);
      process.stdout.write(`\x1b[2K  ${name.padEnd(20)} ${bar} ${percent(row.fraction)}  ${row.note}\n`);
    }
    this.#drawnRows = this.#rows.size;
  }
}

const percent = (fraction: number): string => `${Math.floor(fraction * 100)} %`.padStart(5);
