// A frame in one line: ordinary frames, and any bytes at all.

import t from 'tap'
import { frameInWords } from '../../src/frame/summary.js'
import fc from '../property.js'

const ADDRESSES = '020000000002020000000001'
const IPV6 = `fe80${'0'.repeat(27)}1${'fe80'}${'0'.repeat(27)}2`
const words = (hex: string) =>
  frameInWords(Buffer.from(hex.replaceAll(' ', ''), 'hex'), hex.replaceAll(' ', '').length / 2)
const ipv4 = (protocol: string, rest: string, offset = '0000') =>
  `${ADDRESSES} 0800 4500 ${(20 + rest.length / 2).toString(16).padStart(4, '0')} 0000 ${offset} 40 ${protocol} 0000 0a000001 0a000002 ${rest}`

t.test('ordinary frames', async (t) => {
  const told: readonly (readonly [hex: string, inside: string])[] = [
    [
      `${ADDRESSES} 0806 0001080006040001 020000000001 0a000001 000000000000 0a000002`,
      'ARP who has 10.0.0.2? tell 10.0.0.1',
    ],
    [
      `${ADDRESSES} 0806 0001080006040002 020000000001 0a000001 000000000000 0a000002`,
      'ARP 10.0.0.1 is at 02:00:00:00:00:01',
    ],
    [ipv4('11', '0035 c350 0008 0000'.replaceAll(' ', '')), 'IPv4 10.0.0.1:53 > 10.0.0.2:50000 UDP'],
    [
      ipv4('06', `00501000${'00000007'}${'00000000'}5012000000000000`),
      'IPv4 10.0.0.1:80 > 10.0.0.2:4096 TCP SYN ACK seq 7',
    ],
    [
      ipv4('06', `00501000${'00000007'}${'00000000'}5018000000000000aabb`),
      'IPv4 10.0.0.1:80 > 10.0.0.2:4096 TCP PSH ACK seq 7, 2 of payload',
    ],
    [ipv4('01', '0800000000070002'), 'IPv4 10.0.0.1 > 10.0.0.2 ICMP echo request 7/2'],
    [ipv4('11', '0800000000070002', '0010'), 'IPv4 10.0.0.1 > 10.0.0.2 UDP, fragment at 128'],
    [ipv4('fd', ''), 'IPv4 10.0.0.1 > 10.0.0.2 protocol 253'],
    [
      `${ADDRESSES} 86dd 60000000 0008 3aff ${IPV6} 8700000000000000`,
      'IPv6 [fe80::1] > [fe80::2] ICMPv6 neighbour solicitation',
    ],
    [
      `${ADDRESSES} 86dd 60000000 0010 00ff ${IPV6} 1100000000000000 00350036 00080000`,
      'IPv6 [fe80::1]:53 > [fe80::2]:54 UDP',
    ],
    [`${ADDRESSES} 88cc 00`, 'LLDP'],
    [`${ADDRESSES} 0026 4242`, 'LLC'],
    [`${ADDRESSES} 9000 00`, '0x9000'],
    [`${ADDRESSES} 88b5 534e5357 0302`, '0x88b5 snapswitch MARKER'],
  ]
  for (const [hex, inside] of told) {
    const bytes = hex.replaceAll(' ', '').length / 2
    t.equal(words(hex), `02:00:00:00:00:01 > 02:00:00:00:00:02, ${inside}, ${bytes} bytes`)
  }
  const tagged = words(`${ADDRESSES} 88a8 0064 8100 00c8 0800`)
  t.equal(tagged, '02:00:00:00:00:01 > 02:00:00:00:00:02, vlan 100, vlan 200, IPv4, 22 bytes')
  t.equal(words('0200'), '2 bytes')
  t.equal(frameInWords(Buffer.from(`${ADDRESSES}0800`, 'hex'), 1514).slice(-16), 'IPv4, 1514 bytes')
})

t.test('any bytes at all are told of in a line', async () => {
  const type = fc.constantFrom(0x0800, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x88b5)
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 120 }), type, (bytes, ethertype) => {
      if (bytes.length >= 14) new DataView(bytes.buffer).setUint16(12, ethertype)
      const told = frameInWords(bytes, bytes.length)
      return told.endsWith('bytes') && told.length < 400 && !told.includes('\n') && !told.includes('undefined')
    }),
    { numRuns: 5000 },
  )
})
