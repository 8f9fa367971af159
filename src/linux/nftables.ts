// Packet filter rules through nfnetlink, as few as the switch needs: tables that the kernel removes with the socket
// that made them (NFT_TABLE_F_OWNER, Linux 5.12), so with this process, whatever way it ends. A batch is one
// transaction: all of its rules are in force from the same instant (gencursor in net/netfilter/nf_tables_api.c). And a
// look at the rules of others. linux/netfilter/nf_tables.h; numbers in attributes are in network order, registers in
// host order.

import { SnapswitchError } from '../errors/errors.js'
import { Errno, hasErrno } from './libc.js'
import { attributes, eachAttribute, NETLINK, NetlinkBody, NetlinkSocket, NLM, readText } from './netlink.js'

const SUBSYSTEM = 10
const BATCH_BEGIN = 0x10
const BATCH_END = 0x11
const Message = {
  newTable: 0,
  delTable: 2,
  newChain: 3,
  getChain: 4,
  delChain: 5,
  newRule: 6,
  getRule: 7,
  newSet: 9,
  newElement: 12,
  delElement: 14,
} as const
export const Family = { inet: 1, ip4: 2, arp: 3, netdev: 5, bridge: 7, ip6: 10 } as const
export type Family = (typeof Family)[keyof typeof Family]

const TABLE = { name: 1, flags: 2 } as const
const TABLE_OWNER = 2
const CHAIN = { table: 1, name: 3, hook: 4, policy: 5, type: 7 } as const
const HOOK = { number: 1, priority: 2, device: 3, devices: 4 } as const
const RULE = { table: 1, chain: 2, expressions: 4 } as const
const LIST_ELEMENT = 1
const EXPRESSION = { name: 1, data: 2 } as const
const SET = { table: 1, name: 2, keyType: 4, keyLength: 5, id: 10, userData: 13 } as const
const ELEMENTS = { table: 1, set: 2, elements: 3 } as const
const ELEMENT_KEY = 1
const DATA = { value: 1, verdict: 2 } as const
const VERDICT_CODE = 1
const NF_DROP = 0
const REGISTER = { verdict: 0, first: 1 } as const
const META = { destination: 1, key: 2 } as const
const MetaKey = { iif: 4, oif: 5 } as const
const CMP = { source: 1, operation: 2, data: 3 } as const
/** Matches of iptables', by nft_compat. */
const MATCH = { name: 1, revision: 2, information: 3 } as const
const PROGRAM_MATCH = 'bpf'
const PROGRAM_MATCH_REVISION = 1
/** NFNL_SUBSYS_NFT_COMPAT, NFNL_MSG_COMPAT_GET. */
const COMPAT_GET = 11 << 8
const COMPAT = { name: 1, revision: 2, type: 3 } as const
const LOOKUP = { set: 1, source: 2 } as const
/** How nft(8) shows a set's keys: as names of devices. */
const TYPE_IFINDEX = 20
/** For nft(8), too: that the keys are in host order (NFTNL_UDATA_SET_KEYBYTEORDER, 4 bytes). */
const HOST_ORDER = Uint8Array.of(0, 4, 1, 0, 0, 0)

export interface Command {
  readonly type: number
  readonly flags: number
  readonly body: NetlinkBody
}

function be32(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, value >>> 0)
  return bytes
}

/** A register's content: as the processor has it. */
const native32 = (value: number) => new Uint8Array(Uint32Array.of(value).buffer)

/** struct nfgenmsg */
function header(family: number): NetlinkBody {
  return new NetlinkBody().u8(family).u8(0).u16(0)
}

const command = (message: number, flags: number, body: NetlinkBody): Command => ({
  type: (SUBSYSTEM << 8) | message,
  flags,
  body,
})

export function addTable(family: Family, table: string): Command {
  const body = header(family).attributeText(TABLE.name, table).attribute(TABLE.flags, be32(TABLE_OWNER))
  return command(Message.newTable, NLM.create | NLM.excl, body)
}

export function removeTable(family: Family, table: string): Command {
  return command(Message.delTable, 0, header(family).attributeText(TABLE.name, table))
}

export interface Hook {
  readonly number: number
  readonly priority: number
  /** Of the netdev family. */
  readonly device?: string
}

/** Hooks of the bridge family: all that ports give it, what goes from port to port, what the bridge itself sends. */
export const BridgeHook = { prerouting: 0, forward: 2, output: 3 } as const
export const INGRESS = 0

/** A chain that lets pass what no rule of it drops: a policy would be in force before the transaction is. */
export function addChain(family: Family, table: string, chain: string, hook: Hook): Command {
  const body = header(family)
    .attributeText(CHAIN.table, table)
    .attributeText(CHAIN.name, chain)
    .nested(CHAIN.hook, (nested) => {
      nested.attribute(HOOK.number, be32(hook.number)).attribute(HOOK.priority, be32(hook.priority))
      if (hook.device !== undefined) nested.attributeText(HOOK.device, hook.device)
    })
    .attributeText(CHAIN.type, 'filter')
  return command(Message.newChain, NLM.create | NLM.excl, body)
}

export function removeChain(family: Family, table: string, chain: string): Command {
  return command(Message.delChain, 0, header(family).attributeText(CHAIN.table, table).attributeText(CHAIN.name, chain))
}

/** A set of network devices, by index. */
export function addDeviceSet(family: Family, table: string, set: string): Command {
  const body = header(family)
    .attributeText(SET.table, table)
    .attributeText(SET.name, set)
    .attribute(SET.keyType, be32(TYPE_IFINDEX))
    .attribute(SET.keyLength, be32(4))
    .attribute(SET.id, be32(1))
    .attribute(SET.userData, HOST_ORDER)
  return command(Message.newSet, NLM.create, body)
}

export function changeDevices(
  family: Family,
  table: string,
  set: string,
  change: 'add' | 'remove',
  indexes: readonly number[],
): Command {
  const body = header(family)
    .attributeText(ELEMENTS.table, table)
    .attributeText(ELEMENTS.set, set)
    .nested(ELEMENTS.elements, (list) => {
      for (const index of indexes)
        list.nested(LIST_ELEMENT, (element) =>
          element.nested(ELEMENT_KEY, (key) => key.attribute(DATA.value, native32(index))),
        )
    })
  return command(change === 'add' ? Message.newElement : Message.delElement, change === 'add' ? NLM.create : 0, body)
}

/** Of a frame's way: which device it comes in by or leaves by. */
export type Match =
  | { readonly kind: 'device'; readonly way: 'iif' | 'oif'; readonly index: number }
  | { readonly kind: 'set'; readonly way: 'iif' | 'oif'; readonly set: string }
  /** A BPF program of sockets' kind says so: a descriptor. Ask `hasProgramMatch` before. */
  | { readonly kind: 'program'; readonly fd: number }

/** A rule that drops frames that fit all of `matches`, behind those that the chain has. */
export function addDrop(family: Family, table: string, chain: string, matches: readonly Match[]): Command {
  const body = header(family)
    .attributeText(RULE.table, table)
    .attributeText(RULE.chain, chain)
    .nested(RULE.expressions, (list) => {
      for (const match of matches) {
        if (match.kind === 'program') {
          expression(list, 'match', (data) =>
            data
              .attributeText(MATCH.name, PROGRAM_MATCH)
              .attribute(MATCH.revision, be32(PROGRAM_MATCH_REVISION))
              .attribute(MATCH.information, programMatch(match.fd)),
          )
          continue
        }
        expression(list, 'meta', (data) =>
          data.attribute(META.key, be32(MetaKey[match.way])).attribute(META.destination, be32(REGISTER.first)),
        )
        if (match.kind === 'device') {
          expression(list, 'cmp', (data) =>
            data
              .attribute(CMP.source, be32(REGISTER.first))
              .attribute(CMP.operation, be32(0))
              .nested(CMP.data, (value) => value.attribute(DATA.value, native32(match.index))),
          )
        } else {
          expression(list, 'lookup', (data) =>
            data.attributeText(LOOKUP.set, match.set).attribute(LOOKUP.source, be32(REGISTER.first)),
          )
        }
      }
      expression(list, 'immediate', (data) =>
        data
          .attribute(1, be32(REGISTER.verdict))
          .nested(2, (value) =>
            value.nested(DATA.verdict, (verdict) => verdict.attribute(VERDICT_CODE, be32(NF_DROP))),
          ),
      )
    })
  // NLM_F_APPEND
  return command(Message.newRule, NLM.create | 0x800, body)
}

/** struct xt_bpf_info_v1 (linux/netfilter/xt_bpf.h): XT_BPF_MODE_FD_ELF, a descriptor, room for others' ways. */
function programMatch(fd: number): Uint8Array {
  const information = new Uint8Array(528)
  const view = new DataView(information.buffer)
  view.setUint16(0, 2, true)
  view.setInt32(4, fd, true)
  return information
}

function expression(list: NetlinkBody, name: string, data: (body: NetlinkBody) => void): void {
  list.nested(LIST_ELEMENT, (element) => element.attributeText(EXPRESSION.name, name).nested(EXPRESSION.data, data))
}

/** A socket of the calling thread's network namespace; the tables that it makes go with it. */
export class Nftables {
  readonly #socket = new NetlinkSocket(0, NETLINK.netfilter)

  /**
   * All of them or none, from one instant on. @throws SnapswitchError PERMISSION, or SYSCALL with the kernel's reason
   */
  commit(what: string, commands: readonly Command[]): void {
    // struct nfgenmsg with the subsystem as res_id, in network order.
    const mark = () => new NetlinkBody().u8(0).u8(0).u8(0).u8(SUBSYSTEM)
    const last = commands.length - 1
    this.#socket.batch(what, [
      { type: BATCH_BEGIN, flags: 0, body: mark() },
      ...commands.map((one, at) => (at === last ? { ...one, flags: one.flags | NLM.ack } : one)),
      { type: BATCH_END, flags: 0, body: mark() },
    ])
  }

  /**
   * Whether the kernel has matches by BPF programs; it loads its module (xt_bpf), which it would not find for bridges
   * by itself.
   */
  hasProgramMatch(): boolean {
    const body = header(Family.ip4)
      .attributeText(COMPAT.name, PROGRAM_MATCH)
      .attribute(COMPAT.revision, be32(PROGRAM_MATCH_REVISION))
      .attribute(COMPAT.type, be32(0))
    try {
      this.#socket.request('ask for matches by BPF programs', COMPAT_GET, 0, body)
      return true
    } catch {
      return false
    }
  }

  /** Chains at hooks, of all tables. */
  chains(family: Family): HookedChain[] {
    const answers = this.#dump('list packet filter chains', Message.getChain, family)
    return answers.flatMap((payload) => {
      const found = attributes(payload, 4)
      const hook = found.get(CHAIN.hook)
      if (hook === undefined) return []
      const at = attributes(hook)
      const list = at.get(HOOK.devices)
      const named = [
        at.get(HOOK.device),
        ...(list === undefined ? [] : [...eachAttribute(list)].map(([, name]) => name)),
      ]
      const policy = found.get(CHAIN.policy)
      return [
        {
          table: text(found.get(CHAIN.table)),
          name: text(found.get(CHAIN.name)),
          hook: readBe32(at.get(HOOK.number)),
          devices: [...new Set(named.flatMap((name) => (name === undefined ? [] : [readText(name)])))],
          drops: policy !== undefined && readBe32(policy) === NF_DROP,
        },
      ]
    })
  }

  rules(family: Family): Rule[] {
    return this.#dump('list packet filter rules', Message.getRule, family).map((payload) => {
      const found = attributes(payload, 4)
      const list = found.get(RULE.expressions)
      const expressions = list === undefined ? [] : [...eachAttribute(list)].map(([, one]) => one)
      return {
        table: text(found.get(RULE.table)),
        chain: text(found.get(RULE.chain)),
        // Matches of iptables' are named inside.
        asksForBridgePort: expressions.some((one) => new TextDecoder('latin1').decode(one).includes('physdev')),
      }
    })
  }

  close(): void {
    this.#socket.close()
  }

  /** Empty where the kernel does not have that family. */
  #dump(what: string, message: number, family: Family): Uint8Array[] {
    try {
      return this.#socket
        .request(what, (SUBSYSTEM << 8) | message, NLM.dump, header(family))
        .map(({ payload }) => payload)
    } catch (thrown) {
      if (hasErrno(thrown, Errno.ENOENT, Errno.EINVAL) || lacks(thrown)) return []
      throw thrown
    }
  }
}

const EAFNOSUPPORT = 97
const EOPNOTSUPP = 95
const EPROTONOSUPPORT = 93

/** The kernel has no nf_tables, or not for this family. */
export function lacks(thrown: unknown): boolean {
  return thrown instanceof SnapswitchError && hasErrno(thrown, EAFNOSUPPORT, EOPNOTSUPP, EPROTONOSUPPORT)
}

export interface HookedChain {
  readonly table: string
  readonly name: string
  readonly hook: number
  /** Of the netdev family. */
  readonly devices: readonly string[]
  /** What no rule accepts is dropped. */
  readonly drops: boolean
}

export interface Rule {
  readonly table: string
  readonly chain: string
  /** It matches the bridge port that a packet has come in by (`-m physdev`): br_netfilter alone makes that work. */
  readonly asksForBridgePort: boolean
}

function text(value: Uint8Array | undefined): string {
  return value === undefined ? '' : readText(value)
}

function readBe32(value: Uint8Array | undefined): number {
  return value === undefined ? 0 : new DataView(value.buffer, value.byteOffset, value.byteLength).getUint32(0)
}
