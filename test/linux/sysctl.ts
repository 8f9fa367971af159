// Kernel settings of the namespace that a test is in, by their path under /proc/sys/net.

import { readFileSync, writeFileSync } from 'node:fs'

export function readSysctl(path: string): string {
  return readFileSync(`/proc/sys/net/${path}`, 'utf8').trimEnd()
}

export function writeSysctl(path: string, value: string): void {
  writeFileSync(`/proc/sys/net/${path}`, value)
}
