// Plausible answers of agents, for tests of the coordinator and of the command.

import type { LocalPart, Manifest, MemberPart, Preflight } from '../../src/api/schemas.js'

export const now0 = { ms: 1_000, wallUs: 1_700_000_000_000_000 }

/** A sha256 in shape: the seed's bytes repeated. */
export function digestOf(seed: string): string {
  return Buffer.from(seed.padEnd(32, '.')).subarray(0, 32).toString('hex')
}

export function preflightOf(host: string, vms: readonly string[], more: Partial<Preflight> = {}): Preflight {
  return {
    host,
    version: '0.1.0',
    bootId: `boot-${host}`,
    epoch: 0,
    members: vms.map((vm) => ({
      vm,
      ports: [`${vm}-port`],
      memoryBytes: 64 << 20,
      captureMode: 'background',
      captureModeReason: null,
    })),
    peers: [],
    freeBytes: 1 << 30,
    neededBytes: 1 << 20,
    problems: [],
    ...more,
  }
}

export function memberOf(host: string, vm: string): MemberPart {
  return {
    vm,
    ports: [{ name: `${vm}-port`, device: `tap-${vm}`, mac: '02:00:00:00:00:01' }],
    definition: { kind: 'qemu', name: vm },
    memory: { path: `/state/${host}/${vm}/memory.img`, bytes: 1000, digest: digestOf(`mem ${host} ${vm}`) },
    disks: [
      {
        name: 'disk0',
        layers: [
          {
            file: { path: `/state/${host}/${vm}/disk.qcow2`, bytes: 500, digest: digestOf(`disk ${host} ${vm}`) },
            format: 'qcow2',
          },
        ],
        overlay: `/state/${host}/${vm}/overlay.qcow2`,
      },
    ],
    captureMode: 'background',
    gatedAtUs: 1_000_000,
    pausedAtUs: 1_001_000,
    cutAtUs: 1_002_000,
    resumedAtUs: 1_011_000,
    releasedAtUs: 1_012_000,
    sealedAtUs: 1_500_000,
    held: 3,
    early: 2,
    recorded: 1,
    residue: 0,
    lost: 0,
    dropped: 4,
  }
}

export function partOf(host: string, vms: readonly string[], snapshot: string, epoch: number): LocalPart {
  return {
    host,
    bootId: `boot-${host}`,
    network: 'lab0',
    snapshot,
    epoch,
    members: vms.map((vm) => memberOf(host, vm)),
    channel: { path: `/state/${host}/channel.pcapng`, bytes: 200, digest: digestOf(`channel ${host}`) },
    closures: [],
  }
}

export function manifestOf(
  layout: Readonly<Record<string, readonly string[]>>,
  more: Partial<Manifest> = {},
): Manifest {
  const parts = Object.entries(layout).map(([host, vms]) => partOf(host, vms, 'demo', 4))
  return {
    format: 1,
    network: 'lab0',
    name: 'demo',
    state: 'complete',
    epoch: 4,
    policy: 'buffer',
    createdAt: '2024-05-01T10:00:00.000Z',
    finishedAt: '2024-05-01T10:00:01.000Z',
    version: '0.1.0',
    parts,
    figures: { globalMs: 900, skewMs: 1, downtimeMaxMs: 10, held: 6, early: 4, recorded: 2, lost: 0 },
    error: null,
    ...more,
  }
}

/** A small seeded generator (mulberry32): `choose(n)` gives 0 to n - 1. The same seed gives the same schedule. */
export function chooser(seed: number): (n: number) => number {
  let state = seed | 0
  return (n) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % n
  }
}
