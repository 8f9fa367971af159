// Large receive offload (LRO): a card that joins segments into frames which are no longer what was sent, and which
// nobody can cut up again truly. The kernel's bridge switches it off at its ports (br_add_if: dev_disable_lro).

import { mapArena, releaseArena } from './arena.js'
import { ethtool } from './ethtool.js'
import { check, libc } from './libc.js'

const AF_UNIX = 1
const SOCK_DGRAM_CLOEXEC = 0o2000002
/** linux/ethtool.h: struct ethtool_value is the command and a word. */
const ETHTOOL_GFLAGS = 0x25
const ETHTOOL_SFLAGS = 0x26
const ETH_FLAG_LRO = 1 << 15

/** What a device does by itself, as bits of ETH_FLAG_*; it may be on or off. */
export interface DeviceFlags {
  /** null: the device has no such flags, or is gone. */
  read(): number | null
  /** Throws SYSCALL. */
  write(flags: number): void
}

/** Waits as `ethtool` does: not for a thread that forwards. */
export function flagsOf(ifindex: number): DeviceFlags {
  const ask = (command: number, value: number): number => {
    const c = libc()
    const fd = check(c.socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0), 'open a unix socket')
    const argument = mapArena(8)
    try {
      argument.words[0] = command
      argument.words[1] = value
      check(ethtool(fd, ifindex, argument.address), `ask network device ${ifindex} for its offloads`)
      return argument.words[1]
    } finally {
      c.close(fd)
      releaseArena(argument)
    }
  }
  return {
    read() {
      try {
        return ask(ETHTOOL_GFLAGS, 0)
      } catch {
        return null
      }
    },
    write: (flags) => void ask(ETHTOOL_SFLAGS, flags),
  }
}

/** Switches it off. Returns how to switch it on again; null: it was off. Throws SYSCALL: it stays on. */
export function switchLroOff(flags: DeviceFlags): (() => void) | null {
  const now = flags.read()
  if (now === null || (now & ETH_FLAG_LRO) === 0) return null
  flags.write(now & ~ETH_FLAG_LRO)
  return () => {
    const then = flags.read()
    if (then !== null) flags.write(then | ETH_FLAG_LRO)
  }
}
