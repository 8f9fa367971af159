// Devices at whose ingress hook somebody is, by name. There is room for one there: a port's is ours (ingress.ts), and
// `tc qdisc add dev … ingress` is refused.

import { devicesWithHook } from './ingress.js'
import { Links } from './link.js'

/** Those of `names` that have one. Throws SYSCALL. */
export function withIngressHook(names: readonly string[]): Set<string> {
  if (names.length === 0) return new Set()
  const links = new Links()
  try {
    const hooked = new Set(devicesWithHook(links.socket))
    return new Set(names.filter((name) => hooked.has(links.find(name)?.index ?? 0)))
  } finally {
    links.close()
  }
}
