// Where two JSON values differ first: a host's record of its part of a snapshot and the manifest's must be the same.

/** `members[0].cutAtUs`; null: nowhere. The order of keys means nothing. */
export function firstDifference(one: unknown, other: unknown, path = ''): string | null {
  if (one === other) return null
  if (!isHolder(one) || !isHolder(other) || Array.isArray(one) !== Array.isArray(other)) return path
  for (const key of new Set([...Object.keys(one), ...Object.keys(other)])) {
    const at = Array.isArray(one) ? `${path}[${key}]` : path === '' ? key : `${path}.${key}`
    const found = firstDifference(one[key], other[key], at)
    if (found !== null) return found
  }
  return null
}

function isHolder(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}
