// What is wrong with a saved network of stores, by its images and by what became of it once restored: pure.

import { median } from '../forwarding/statistics.js'

export interface Acknowledged {
  readonly store: 'etcd' | 'redis'
  readonly key: string
  readonly value: string
  /** etcd: the member that acknowledged it. redis: how many replicas had it too. */
  readonly more: number
}

export interface EtcdState {
  readonly member: string
  /** As the member sees it; empty: it knows of none. */
  readonly leader: string
  readonly term: number
  /** Of the last entry that it knows to be committed. */
  readonly index: number
  readonly values: ReadonlyMap<string, string>
}

export interface RedisState {
  readonly isPrimary: boolean
  /** Bytes of the replication stream that it has written or taken in. */
  readonly offset: number
  /** Copies of everything that it has sent to a replica. */
  readonly fullSyncs: number
  readonly values: ReadonlyMap<string, string>
}

export interface MachineState {
  /** Null: it does not answer, or the machine has none. */
  readonly etcd: EtcdState | null
  readonly redis: RedisState | null
  readonly acknowledged: readonly Acknowledged[]
  /** Servers that have ended. */
  readonly ended: number
  /** Connections that a reset ended. */
  readonly resets: number
}

export interface NetworkState {
  readonly members: readonly MachineState[]
  readonly client: MachineState
  /** Writes that the client has begun: their numbers are below. */
  readonly begun: { readonly etcd: number; readonly redis: number }
}

export type Counts = Readonly<Record<string, number>>

const numberOf = (key: string) => Number(key.slice(1))
export const keyOf = (number: number) => `k${String(number).padStart(7, '0')}`

/** The member of the highest term that takes itself for the leader; undefined: none does. */
function leaderOf(states: readonly EtcdState[]): EtcdState | undefined {
  const leaders = states.filter(({ member, leader }) => member === leader)
  return leaders.sort((one, other) => other.term - one.term)[0]
}

/** Keys on which not all agree, those that some lack included. */
export function disagreements(all: readonly ReadonlyMap<string, string>[]): number {
  const keys = new Set(all.flatMap((values) => [...values.keys()]))
  return [...keys].filter((key) => new Set(all.map((values) => values.get(key))).size > 1).length
}

const present = <T>(values: readonly (T | null)[]): T[] => values.filter((value): value is T => value !== null)

/**
 * Of machines that were each loaded alone. All are 0 for a consistent cut, whatever was in transit: what a machine has
 * done because of a message, the sender had done before.
 */
export function cutCounts({ members, client, begun }: NetworkState): Counts {
  const etcd = present(members.map((member) => member.etcd))
  const redis = present(members.map((member) => member.redis))
  const primary = redis.find(({ isPrimary }) => isPrimary)
  const replicas = redis.filter(({ isPrimary }) => !isPrimary)
  const missing = client.acknowledged.filter(({ store, key, value, more }) => {
    if (store === 'etcd') return members[more]?.etcd?.values.get(key) !== value
    const holders = more >= replicas.length ? redis : redis.filter(({ isPrimary }) => isPrimary)
    return holders.some(({ values }) => values.get(key) !== value)
  })
  const leader = leaderOf(etcd)
  const followers = etcd.filter(({ term, member }) => term === leader?.term && member !== leader.member)
  const unbegun = (all: readonly ReadonlyMap<string, string>[], below: number) =>
    new Set(all.flatMap((values) => [...values.keys()]).filter((key) => numberOf(key) >= below)).size
  return {
    'cut.missing': missing.length,
    'cut.ahead':
      replicas.filter(({ offset }) => primary !== undefined && offset > primary.offset).length +
      followers.filter(({ index }) => index > leader!.index).length,
    'cut.unbegun':
      unbegun(
        etcd.map(({ values }) => values),
        begun.etcd,
      ) +
      unbegun(
        redis.map(({ values }) => values),
        begun.redis,
      ),
  }
}

/**
 * What became of the restored network: `cut` as `cutCounts` takes it, `end` once the client has stopped and all had
 * time.
 */
export function endCounts(cut: NetworkState, end: NetworkState): Counts {
  const etcd = present(end.members.map((member) => member.etcd))
  const redis = present(end.members.map((member) => member.redis))
  // What a client reads: any member's of etcd that has applied all, the primary's of redis.
  const answers = {
    etcd: (leaderOf(etcd) ?? etcd[0])?.values,
    redis: redis.find(({ isPrimary }) => isPrimary)?.values,
  }
  const missing = end.client.acknowledged.filter(({ store, key, value }) => answers[store]?.get(key) !== value)
  const machines = (network: NetworkState) => [...network.members, network.client]
  const sum = (network: NetworkState, of: (machine: MachineState) => number) =>
    machines(network).reduce((total, machine) => total + of(machine), 0)
  const grown = (of: (machine: MachineState) => number) => Math.max(0, sum(end, of) - sum(cut, of))
  const unanswered = (states: readonly unknown[]) => end.members.length - states.length
  return {
    'end.missing': missing.length,
    'end.disagree': disagreements(etcd.map(({ values }) => values)) + disagreements(redis.map(({ values }) => values)),
    'end.silent': unanswered(etcd) + unanswered(redis),
    'end.ended': grown(({ ended }) => ended),
    'end.resets': grown(({ resets }) => resets),
    'end.fullSyncs': grown(({ redis: state }) => state?.fullSyncs ?? 0),
  }
}

/** A cut that no moment of the run could have been, and a restored network that lost, or contradicts, or stays away. */
export const isWrongCut = (counts: Counts): boolean =>
  ['cut.missing', 'cut.ahead', 'cut.unbegun'].some((name) => counts[name]! > 0)
export const isWrongEnd = (counts: Counts): boolean =>
  ['end.missing', 'end.disagree', 'end.silent', 'end.ended', 'still'].some((name) => counts[name]! > 0)

const SUMMED = [
  'cut.missing',
  'cut.ahead',
  'cut.unbegun',
  'end.missing',
  'end.disagree',
  'end.silent',
  'end.ended',
] as const
const PER_ATTEMPT = [
  'end.resets',
  'end.reconnects',
  'end.fullSyncs',
  'etcd.first',
  'etcd.all',
  'redis.first',
  'redis.copied',
] as const

/** One row's figures of all attempts: how many went wrong, what was wrong all together, and medians of the rest. */
export function figuresOf(all: readonly Counts[]): Record<string, number> {
  const figures: Record<string, number> = {
    attempts: all.length,
    wrong: all.filter((counts) => isWrongCut(counts) || isWrongEnd(counts)).length,
    wrongCuts: all.filter(isWrongCut).length,
    wrongEnds: all.filter(isWrongEnd).length,
    still: all.filter(({ still }) => still! > 0).length,
  }
  for (const name of SUMMED) figures[name] = all.reduce((sum, counts) => sum + counts[name]!, 0)
  for (const name of PER_ATTEMPT) {
    const values = all.flatMap((counts) => counts[name] ?? [])
    if (values.length > 0) figures[name] = median(values)
  }
  // Raw, for whoever asks which of them it was.
  for (const [index, counts] of all.entries())
    for (const [name, value] of Object.entries(counts)) figures[`${index + 1}.${name}`] = value
  return figures
}
