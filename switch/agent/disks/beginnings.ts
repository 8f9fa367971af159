// Whether what was seen of machines' images still holds. A look takes seconds on a busy host, or when one hypervisor
// does not answer; a snapshot that begins meanwhile, and may end as well, makes overlays and freezes images that the
// look knows nothing of.

export class Beginnings {
  readonly #busy: () => ReadonlySet<string>
  readonly #last = new Map<string, number>()
  #count = 0

  /** `busy`: machines that a snapshot or restore has under way. */
  constructor(busy: () => ReadonlySet<string>) {
    this.#busy = busy
  }

  /** Call when a snapshot or restore of machines has begun, before it makes a file. */
  note(vms: Iterable<string>): void {
    this.#count++
    for (const vm of vms) this.#last.set(vm, this.#count)
  }

  /** Call before the look. Tells whether nothing went on with a machine since; for null: with none at all. */
  quietSince(): (vm: string | null) => boolean {
    const before = this.#busy()
    const count = this.#count
    return (vm) => {
      const now = this.#busy()
      if (vm === null) return before.size === 0 && now.size === 0 && this.#count === count
      return !before.has(vm) && !now.has(vm) && (this.#last.get(vm) ?? 0) <= count
    }
  }
}
