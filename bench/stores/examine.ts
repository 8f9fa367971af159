// What a machine of the stores bench holds, read by the shell inside it (guest/examine).

import { gunzipSync } from 'node:zlib'
import { inGuest } from '../../test/lab/guest-shell.js'
import type { Lab } from '../../test/lab/lab.js'
import type { Acknowledged, EtcdState, MachineState, RedisState } from './counts.js'
import { keyOf } from './counts.js'

const EXAMINE_MS = 60_000

export async function examine(lab: Lab, machine: string): Promise<MachineState> {
  const said = await inGuest(lab, machine, 'examine', EXAMINE_MS)
  const state = stateIn(said)
  if (state === undefined) throw new Error(`${machine}: its shell says no state: ${said.slice(-300)}`)
  return state
}

/** Out of what the shell printed; undefined: there is none. */
export function stateIn(said: string): MachineState | undefined {
  const packed = /begin-2\n([A-Za-z0-9+/=\n]*)close-2/.exec(said)?.[1]
  return packed === undefined ? undefined : parseState(gunzipSync(Buffer.from(packed, 'base64')).toString('latin1'))
}

/** Sections as guest/examine writes them; a server that did not answer has left its own empty. */
export function parseState(text: string): MachineState {
  const sections = new Map<string, string>()
  for (const part of text.split(/^@/m).slice(1)) {
    const end = part.indexOf('\n')
    sections.set(part.slice(0, end), part.slice(end + 1))
  }
  const section = (name: string) => sections.get(name) ?? ''
  return {
    etcd: etcdState(section('status'), section('range')),
    redis: redisState(section('redis'), section('values')),
    acknowledged: section('acknowledged').split('\n').flatMap(acknowledgedIn),
    ended: section('ended').split('\n').filter(Boolean).length,
    resets: tcpCounter(section('tcp'), 'EstabResets'),
  }
}

function acknowledgedIn(line: string): Acknowledged[] {
  const [, store, number, value, more] = /^([er]) (\d+) (\d+) (\d+)$/.exec(line) ?? []
  if (value === undefined) return []
  return [{ store: store === 'e' ? 'etcd' : 'redis', key: keyOf(Number(number)), value, more: Number(more) }]
}

const decoded = (text: string) => Buffer.from(text, 'base64').toString('latin1')

interface EtcdStatus {
  readonly header: { readonly member_id: string }
  readonly leader?: string
  readonly raftIndex: string
  readonly raftTerm: string
}

function etcdState(status: string, range: string): EtcdState | null {
  try {
    const { header, leader, raftIndex, raftTerm } = JSON.parse(status) as EtcdStatus
    const { kvs = [] } = JSON.parse(range) as { kvs?: { key: string; value: string }[] }
    return {
      member: header.member_id,
      leader: leader === undefined || leader === '0' ? '' : leader,
      term: Number(raftTerm),
      index: Number(raftIndex),
      values: new Map(kvs.map(({ key, value }) => [decoded(key), decoded(value)])),
    }
  } catch {
    return null
  }
}

function redisState(info: string, values: string): RedisState | null {
  const field = (name: string) => new RegExp(`^${name}:(.*?)\r?$`, 'm').exec(info)?.[1]
  const role = field('role')
  if (role === undefined) return null
  const isPrimary = role === 'master'
  return {
    isPrimary,
    offset: Number(field(isPrimary ? 'master_repl_offset' : 'slave_repl_offset')),
    fullSyncs: Number(field('sync_full') ?? 0),
    values: new Map([...values.matchAll(/^(k\d+) (\d+)\r?$/gm)].map(([, key, value]) => [key!, value!])),
  }
}

/** Out of /proc/net/snmp: a line of names and one of values for each protocol. */
function tcpCounter(text: string, name: string): number {
  const [names, values] = text
    .split('\n')
    .filter((line) => line.startsWith('Tcp:'))
    .map((line) => line.trim().split(' '))
  return Number(values?.[names?.indexOf(name) ?? -1] ?? 0)
}
