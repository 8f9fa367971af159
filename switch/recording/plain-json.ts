// JSON for what a recording says of commands and states: as JSON is, and bytes, and numbers that are not finite.

const BYTES = '$bytes'
const NUMBER = '$number'

export function encodePlain(value: unknown): Uint8Array {
  return new TextEncoder().encode(
    JSON.stringify(value, (_name, found: unknown) => {
      if (found instanceof Uint8Array) return { [BYTES]: Buffer.from(found).toString('base64') }
      if (typeof found === 'number' && !Number.isFinite(found)) return { [NUMBER]: String(found) }
      return found
    }),
  )
}

/** Throws SyntaxError. */
export function decodePlain(bytes: Uint8Array): unknown {
  return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes), (_name, found: unknown) => {
    if (typeof found !== 'object' || found === null) return found
    const { [BYTES]: encoded, [NUMBER]: number } = found as Record<string, unknown>
    if (typeof encoded === 'string') return new Uint8Array(Buffer.from(encoded, 'base64'))
    return typeof number === 'string' ? Number(number) : found
  })
}
