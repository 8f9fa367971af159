// What the libvirt driver reads from and writes into domain XML, the head of its images, and its place in a
// configuration.

import { writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import type { SnapswitchError } from '../../src/errors/errors.js'
import { asOwned, moveToTaps, tapsByMac } from '../../src/hypervisor/libvirt/bridged-nics.js'
import {
  appendToLogs,
  placeDisks,
  placeMedia,
  placeNics,
  snapshotXml,
  withoutIngressLimits,
} from '../../src/hypervisor/libvirt/domain-edits.js'
import { placeFiles, withNamedFirmware } from '../../src/hypervisor/libvirt/domain-files.js'
import { stateDetail } from '../../src/hypervisor/libvirt/domain-state.js'
import { parse } from '../../src/hypervisor/libvirt/domain-tree.js'
import { describeDomain, readConfinement, saveCookie } from '../../src/hypervisor/libvirt/domain-xml.js'
import { foreignDevices } from '../../src/hypervisor/libvirt/foreign-devices.js'
import { checkSupported } from '../../src/hypervisor/libvirt/look.js'
import { confinementFinding, libvirtObstacle } from '../../src/hypervisor/libvirt/probe.js'
import { parseProcessMessage } from '../../src/hypervisor/libvirt/protocol.js'
import { decodeHead, encodeHead } from '../../src/hypervisor/libvirt/save-image.js'
import { unsupportedDrive } from '../../switch/agent/refusals.js'
import { loadSwitchConfig } from '../../switch/config.js'
import { wantedBy } from '../../switch/wanted/from-config.js'
import { scratch } from './machines.js'

const xml = `<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web &amp; db</name><uuid>15a09c8d-18c1-4da9-95d2-49cc612273c2</uuid>
  <memory unit='MiB'>512</memory>
  <cpu mode='custom' match='exact'><model fallback='forbid'>Haswell</model></cpu>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>
      <source file='/images/a &quot;1&quot;.s1.qcow2' index='4'/>
      <backingStore type='file' index='1'><format type='raw'/><source file='/images/a.img'/><backingStore/></backingStore>
      <target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><source file='/images/b.img'/><target dev='vdb' bus='virtio'/></disk>
    <disk type='block' device='disk'><driver type='raw'/><source dev='/dev/sdx'/><target dev='vdc'/></disk>
    <disk type='file' device='disk'><driver type='raw'/><source file='/s.img'/><shareable/><target dev='vdd'/></disk>
    <disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk>
    <disk type='file' device='floppy'><source file='/f.img'/><target dev='fda'/></disk>
    <disk type='file' device='floppy'><target dev='fdb'/></disk>
    <interface type='ethernet'><mac address='52:54:00:AA:00:01'/><target dev='tap0' managed='no'/></interface>
    <interface type='user'><mac address='52:54:00:AA:00:02'/></interface>
    <interface type='bridge'><source bridge='br0'/><virtualport type='openvswitch'/><target dev='vnet3'/></interface>
  </devices>
  <qemu:commandline><qemu:arg value='-nodefaults'/></qemu:commandline>
</domain>`

t.test('a domain is read', async (t) => {
  t.same(describeDomain(xml), {
    name: 'web & db',
    uuid: '15a09c8d-18c1-4da9-95d2-49cc612273c2',
    memoryBytes: 512 << 20,
    disks: [
      {
        target: 'vda',
        layers: [
          { file: '/images/a "1".s1.qcow2', format: 'qcow2' },
          { file: '/images/a.img', format: 'raw' },
        ],
      },
      { target: 'vdb', layers: [{ file: '/images/b.img', format: 'raw' }] },
    ],
    media: [
      { name: 'sda', file: null, format: 'raw', removable: true },
      { name: 'fdb', file: null, format: 'raw', removable: true },
    ],
    unsupported: [
      { name: 'vdc', reason: 'its image is a block device, not a file' },
      { name: 'vdd', reason: 'other machines may write to it, too (<shareable/>)' },
      { name: 'fda', reason: 'it is a writable floppy' },
    ],
    // libvirt makes the others again as they were.
    nics: [{ device: 'tap0', mac: '52:54:00:aa:00:01' }],
    bridgedNics: [{ device: 'vnet3', mac: null, isMadeUp: true }],
  })
})

t.test('what is no domain is refused', async (t) => {
  for (const bad of ['', '<domain>', '<network/>', 'nonsense', '<domain><a></domain>']) {
    t.throws(() => describeDomain(bad), { code: 'HYPERVISOR_PROTOCOL' }, JSON.stringify(bad))
  }
})

t.test('disks and NICs are put elsewhere, all else stays', async (t) => {
  const layers = [
    { file: '/run/a & b.qcow2', format: 'qcow2' },
    { file: '/files/1', format: 'qcow2' },
    { file: '/files/2', format: 'raw' },
  ] as const
  const placed = placeNics(placeDisks(xml, [{ target: 'vdb', layers }]), ['left'])
  const found = describeDomain(placed)
  t.same(found.disks[1], { target: 'vdb', layers })
  t.same(found.disks[0], describeDomain(xml).disks[0])
  t.same(
    found.nics.map(({ device }) => device),
    ['left'],
  )
  t.match(placed, '<qemu:arg value="-nodefaults"/>')
  t.match(placed, /<source bridge="br0"\/><virtualport type="openvswitch"\/><target dev="vnet3"\/>/)
  t.match(placed, '<target dev="left" managed="no"/>')
  const managed = placeNics(xml.replace(" managed='no'", ''), ['left'])
  t.match(managed, '<target dev="left"/>', 'a tap that libvirt makes and takes away stays one')
  t.match(placed, /<backingStore\/><\/backingStore><\/backingStore>/, 'the chain has an end')
  t.throws(() => placeDisks(xml, [{ target: 'vdz', layers }]), { code: 'MACHINE_UNSUPPORTED' })
  t.throws(() => placeNics(xml, ['left', 'right']), { code: 'MACHINE_UNSUPPORTED' })
})

t.test('limits of what a guest sends go where a port is, and nothing else', async (t) => {
  const nic = (tap: string, limits: string) => `<interface type="ethernet"><target dev="${tap}"/>${limits}</interface>`
  const [slow, to, fro] = ['<outbound average="1000"/>', '<inbound average="9"/>', '<bandwidth>']
  const both = nic('a', `${fro}${to}${slow}</bandwidth>`)
  const one = nic('b', `${fro}${slow}</bandwidth>`)
  const free = nic('c', `${fro}${slow}</bandwidth>`)
  const bridge = `<interface type="bridge"><target dev="a"/>${fro}${slow}</bandwidth></interface>`
  const domain = (...nics: string[]) => `<domain><devices>${nics.join('')}</devices></domain>`
  t.equal(
    withoutIngressLimits(domain(both, one, free, bridge), new Set(['a', 'b'])),
    domain(
      nic('a', `${fro}${to}</bandwidth>`),
      '<interface type="ethernet"><target dev="b"/></interface>',
      free,
      bridge,
    ),
  )
  t.equal(withoutIngressLimits(domain(both, one), new Set()), domain(both, one))
})

t.test('every kind of disk is supported, a medium, or named with the reason', async (t) => {
  const disk = (inside: string, attributes = "type='file'") => `<disk ${attributes}>${inside}<target dev='vda'/></disk>`
  const file = "<source file='/a'/>"
  const of = (text: string) => describeDomain(`<domain><devices>${text}</devices></domain>`)
  const reasons: [string, RegExp][] = [
    [disk("<source dev='/dev/sdx'/>", "type='block'"), /a block device/],
    [disk("<source protocol='nbd' name='x'/>", "type='network'"), /on the network/],
    [disk("<source pool='p' volume='v'/>", "type='volume'"), /storage pool/],
    [disk("<source type='pci' namespace='1'/>", "type='nvme'"), /NVMe/],
    [disk("<source type='unix' path='/s'/>", "type='vhostuser'"), /vhost-user/],
    [disk("<source dir='/d'/>", "type='dir'"), /directory/],
    [disk("<source dev='/dev/vhost-vdpa-0'/>", "type='vhostvdpa'"), /vhost-vdpa/],
    [disk("<driver type='vmdk'/><source file='/a'/>"), /format vmdk/],
    [disk("<source file='/a'><encryption format='luks'/></source>"), /encrypted/],
    [disk("<source file='/a'><slices><slice type='storage' offset='0' size='9'/></slices></source>"), /only a part/],
    [disk("<source file='/a'><dataStore type='file'/></source>"), /data in another image/],
    [disk(`${file}<backingStore type='network'><format type='raw'/></backingStore>`), /on the network/],
    [
      disk(
        `${file}<backingStore type='file'><format type='qcow2'/><source file='/b'><encryption format='luks'/></source></backingStore>`,
      ),
      /\/b is encrypted/,
    ],
    [disk(`${file}<shareable/>`), /other machines/],
    [disk(`${file}<transient/>`), /thrown away/],
    [disk(`${file}<mirror type='file' job='copy'/>`), /being copied/],
    [disk(file, "type='file' device='lun'"), /writable lun/],
    [disk(file, "type='file' device='floppy'"), /writable floppy/],
  ]
  for (const [text, reason] of reasons) {
    const { disks, media, unsupported } = of(text)
    t.match(unsupported[0]?.reason, reason)
    t.same([disks.length, media.length], [0, 0])
  }
  t.same(of(disk(file)).disks, [{ target: 'vda', layers: [{ file: '/a', format: 'raw' }] }])
  t.same(of(disk("<source dev='/dev/sr0'/>", "type='block' device='cdrom'")).media, [
    { name: 'vda', file: null, format: 'raw', removable: true },
  ])
  const golden = `<driver type='qcow2'/>${file}<backingStore type='file'><format type='raw'/><source file='/b'/></backingStore><readonly/>`
  t.same(of(disk(golden)).media, [
    { name: 'vda', file: '/a', format: 'qcow2', removable: false, backing: [{ file: '/b', format: 'raw' }] },
  ])
})

t.test('devices whose state is not QEMU’s alone', async (t) => {
  const of = (text: string) => foreignDevices(parse(`<domain><devices>${text}</devices></domain>`))
  const share = (driver: string) => `<filesystem type='mount'>${driver}<target dir='share'/></filesystem>`
  const host = (type: string) => `<hostdev mode='subsystem' type='${type}'><alias name='hostdev0'/></hostdev>`
  const tpm = (type: string) => `<tpm model='tpm-tis'><backend type='${type}'/></tpm>`
  const disk = (type: string) => `<disk type='${type}'><target dev='vdz'/><readonly/></disk>`
  const nic = (type: string) => `<interface type='${type}'><mac address='52:54:00:00:00:01'/></interface>`
  const refused: [string, string, RegExp][] = [
    [share("<driver type='virtiofs' queue='1024'/>"), 'filesystem share', /another process.*virtiofs/],
    [host('usb'), 'hostdev hostdev0', /in the hardware.*USB/],
    [host('pci'), 'hostdev hostdev0', /in the hardware.*PCI/],
    [host('mdev'), 'hostdev hostdev0', /in the hardware.*mediated/],
    [host('scsi'), 'hostdev hostdev0', /the host’s disk/],
    [host('scsi_host'), 'hostdev hostdev0', /vhost-scsi/],
    [host('later'), 'hostdev hostdev0', /type later/],
    [tpm('passthrough'), 'tpm', /the host’s own/],
    [tpm('external'), 'tpm', /which nobody starts/],
    [nic('vhostuser'), 'NIC 52:54:00:00:00:01', /type vhostuser/],
    [nic('vdpa'), 'NIC 52:54:00:00:00:01', /type vdpa/],
    [nic('hostdev'), 'NIC 52:54:00:00:00:01', /type hostdev/],
    ["<shmem name='mem0'/>", 'shmem mem0', /shared with others/],
    ["<video><driver name='vhostuser'/><model type='virtio'/></video>", 'video', /vhost-user-gpu/],
    [disk('vhostuser'), 'disk vdz', /another process/],
    [disk('vhostvdpa'), 'disk vdz', /in the hardware/],
  ]
  for (const [text, name, reason] of refused) t.match(of(text), [{ name, reason, isDevice: true }], text)
  const fine = [share(''), share("<driver type='path'/>"), tpm('emulator'), disk('file'), nic('bridge')]
  t.same(of([...fine, '<video><model type="qxl"/></video>'].join('')), [])
  const found = of(refused[0]![0])
  t.throws(() => checkSupported('vm0', found), {
    code: 'MACHINE_UNSUPPORTED',
    message: /^vm0’s filesystem share cannot be snapshot: another process/,
    action: /virsh detach-device/,
  })
  t.match(unsupportedDrive('vm0', found[0]!).report(), {
    message: /^vm0’s filesystem share cannot be snapshot/,
    action: /^Take that device/,
  })
  t.match(unsupportedDrive('vm0', { name: 'vda', reason: 'no' }).report(), { message: /^vm0’s drive vda cannot/ })
})

t.test('discs are put into their drives, and taken out', async (t) => {
  const [cd, floppy] = describeDomain(xml).media
  const disc = placeMedia(xml, [{ ...cd!, file: '/x & y.iso' }])
  t.same(describeDomain(disc).media, [{ ...cd, file: '/x & y.iso' }, floppy])
  t.same(describeDomain(placeMedia(disc, [cd!])).media, [cd, floppy])
  const network =
    "<domain><devices><disk type='network' device='cdrom'><source protocol='http'/><target dev='sda'/></disk></devices></domain>"
  t.match(placeMedia(network, [cd!]), '<source protocol="http"/>', 'what is no file stays')
  t.throws(() => placeMedia(xml, [{ ...cd!, name: 'sdz' }]), { code: 'MACHINE_UNSUPPORTED' })
})

t.test('a firmware that libvirt has chosen is named only where it is another', async (t) => {
  const of = (attributes: string, choice: string, loader: string) =>
    `<domain><os${attributes}><type>hvm</type>${choice}${loader}<nvram template="/t.fd">/v.fd</nvram></os></domain>`
  const choice = '<firmware><feature enabled="no" name="secure-boot"/></firmware>'
  const chosen = of(' firmware="efi"', choice, '<loader type="pflash">/code.fd</loader>')
  const named = (file: string) => of('', '', `<loader type="pflash">${file}</loader>`)
  const place = (xml: string, places: Record<string, string>) => placeFiles(xml, (file) => places[file.path] ?? null)
  t.equal(place(chosen, { '/code.fd': '/own/file-1' }), named('/own/file-1'))
  t.equal(place(chosen, { '/code.fd': '/code.fd' }), chosen, 'it is there')
  t.equal(place(chosen, { '/v.fd': '/own/vars.fd' }), chosen.replace('/v.fd', '/own/vars.fd'))
  t.equal(withNamedFirmware(chosen), named('/code.fd'))
  const unnamed = of(' firmware="efi"', choice, '')
  t.equal(withNamedFirmware(unnamed), unnamed, 'which libvirt has yet to choose')
})

t.test('NICs in bridges come onto bare taps, and back to what their owner has', async (t) => {
  const nic = (type: string, mac: string, inside: string) =>
    `<interface type="${type}"><mac address="52:54:00:AA:00:0${mac}"/>${inside}<model type="virtio"/><alias name="net${mac}"/></interface>`
  const lab = nic('network', '1', '<source network="lan" portid="x" bridge="br0"/><target dev="vnet0"/>')
  const outside = nic('bridge', '2', '<source bridge="br9"/><target dev="vnet1"/>')
  const wide = nic('bridge', '3', '<source bridge="br0"/><target dev="vnet2"/><driver queues="4"/><mtu size="9000"/>')
  const own = nic('ethernet', '4', '<target dev="tap0" managed="no"/>')
  const domain = (metadata: string) =>
    `<domain>${metadata}<devices>${[lab, outside, wide, own].join('')}</devices></domain>`
  for (const metadata of ['', '<metadata><app xmlns="urn:other">theirs</app></metadata>']) {
    const before = describeDomain(domain(metadata))
    t.same(before.bridgedNics, [
      { device: 'vnet0', mac: '52:54:00:aa:00:01', isMadeUp: true },
      { device: 'vnet1', mac: '52:54:00:aa:00:02', isMadeUp: true },
      { device: 'vnet2', mac: '52:54:00:aa:00:03', isMadeUp: true, queues: 4 },
    ])
    t.same(before.nics, [{ device: 'tap0', mac: '52:54:00:aa:00:04' }])
    const taps = tapsByMac(before.bridgedNics, ['vnet7', null, 'vnet2'])
    const moved = moveToTaps(domain(metadata), taps)
    const after = describeDomain(moved)
    t.same(after.nics, before.nics, 'they are libvirt’s to make all the same')
    t.same(
      after.bridgedNics.map(({ device, mac }) => [device, mac]),
      [
        ['vnet7', '52:54:00:aa:00:01'],
        ['vnet1', '52:54:00:aa:00:02'],
        ['vnet2', '52:54:00:aa:00:03'],
      ],
    )
    t.match(moved, outside, 'one that is no port stays as it is')
    t.equal(moved.match(/<interface type="ethernet">/g)?.length, 3)
    t.notMatch(moved, /<interface type="ethernet">(?:(?!<\/interface>).)*<source/s, 'a bare tap is in no bridge')
    t.match(moved, '<target dev="vnet2" managed="no"/><driver queues="4"/><mtu size="9000"/>')
    if (metadata !== '') t.match(moved, '<app xmlns="urn:other">theirs</app>')
    const again = asOwned(moved)
    t.same(describeDomain(again), { ...after })
    t.notMatch(again, 'urn:snapswitch')
    t.match(
      again,
      /<interface type="network">.*<target dev="vnet7"\/>.*<source network="lan" portid="x" bridge="br0"\/>/,
    )
    t.equal(again.match(/managed/g)?.length, 1, 'libvirt makes their taps when the domain starts')
    t.equal(asOwned(again), again)
  }
  t.equal(moveToTaps(xml, new Map()), xml)
  t.equal(asOwned(xml), xml)
})

t.test('consoles go on in their files', async (t) => {
  const log =
    "<domain><devices><serial type='file'><source path='/l'/></serial><serial type='pty'><log file='/m' append='off'/></serial></devices></domain>"
  t.match(appendToLogs(log), /<source path="\/l" append="on"\/>.*<log file="\/m" append="on"\/>/)
})

t.test('why a domain does not run', async (t) => {
  t.equal(stateDetail(1, 1, false), null)
  t.match(stateDetail(3, 1, false), /paused by its user/)
  t.match(stateDetail(3, 5, false), /a disk of it cannot be written/)
  t.match(stateDetail(3, 5, true), /is full/)
  t.match(stateDetail(3, 99, false), /paused/)
  t.match(stateDetail(5, 1, false), /off/)
  t.match(stateDetail(6, 0, false), /crashed/)
  t.match(stateDetail(7, 0, false), /asleep/)
})

t.test('a snapshot names every disk', async (t) => {
  t.equal(
    snapshotXml([{ target: 'vda', file: '/a<b.qcow2' }], ['sda'], '/m'),
    '<domainsnapshot><disks><disk name="vda" snapshot="external" type="file"><driver type="qcow2"/>' +
      '<source file="/a&lt;b.qcow2"/></disk><disk name="sda" snapshot="no"/></disks><memory snapshot="external" file="/m"/></domainsnapshot>',
  )
})

t.test('the head of an image, there and back', async (t) => {
  for (const cookie of [saveCookie(xml), null]) {
    const head = { xml: `${xml}ü`, cookie, wasRunning: cookie !== null }
    const bytes = encodeHead(head)
    t.same(decodeHead(Buffer.concat([bytes, Buffer.from('QEVM')])), { ...head, streamAt: bytes.length })
    t.equal(decodeHead(bytes.subarray(0, -1)), null, 'too short')
  }
  t.match(saveCookie(xml), /^<cookie>\s*<cpu mode="custom".*Haswell.*<\/cookie>/s)
  t.equal(decodeHead(Buffer.alloc(4096)), null)
})

t.test('who QEMU runs as, what confines it, and libvirts that are too old', async (t) => {
  // As hosts with these drivers say it.
  const dac = (label: string) =>
    `<secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>${label}</baselabel><baselabel type='qemu'>${label}</baselabel></secmodel>`
  const host = (models: string) =>
    `<capabilities><host><cpu><model>Haswell</model></cpu>${models}</host></capabilities>`
  const apparmor = '<secmodel><model>apparmor</model><doi>0</doi></secmodel>'
  const label = `<baselabel type='kvm'>system_u:system_r:svirt_t:s0</baselabel>`
  const selinux = `<secmodel><model>selinux</model><doi>0</doi>${label}</secmodel>`
  t.same(readConfinement(host(apparmor + dac('+64055:+64055'))), { user: 64055, driver: 'apparmor' })
  t.same(readConfinement(host(selinux + dac('+107:+107'))), { user: 107, driver: 'selinux' })
  t.same(readConfinement(host(`<secmodel><model>none</model><doi>0</doi></secmodel>${dac('+0:+0')}`)), {
    user: 0,
    driver: null,
  })
  t.same(readConfinement(host('')), { user: null, driver: null })
  t.match(confinementFinding(null, ''), { ok: true, cost: null })
  const { ok, cost } = confinementFinding('apparmor', '# Site-specific additions\n# /images/*.qcow2 rwk,\n')
  t.equal(ok, false)
  // What it says to add is what it looks for.
  const rule = /`(.*rwk,)`/.exec(cost!)![1]!
  t.match(confinementFinding('apparmor', `# Site-specific additions\n  ${rule}\n`), { ok: true, cost: null })
  t.match(confinementFinding('selinux', rule), { ok: false, cost: /seclabel type='none' model='selinux'/ })
  for (const good of ['8.2.0', '9.0.0', '10.1.2']) t.equal(libvirtObstacle(good), null)
  for (const bad of ['8.1.0', '7.10.0']) t.match(libvirtObstacle(bad), /older than 8\.2/)
})

t.test('half a line from the libvirt process', async (t) => {
  t.equal(parseProcessMessage('{"type":"result","id":7,"res'), null)
  t.same(parseProcessMessage('{"type":"result","id":7,"result":null}'), { type: 'result', id: 7, result: null })
})

t.test('a configuration names a machine’s socket or its domain, not both', async (t) => {
  const file = path.join(scratch('config'), 'switch.yaml')
  const load = (machine: string) => {
    writeFileSync(file, `host: a\nnetworks: {}\nmachines:\n  vm1: ${machine}\n`)
    return loadSwitchConfig(file)
  }
  const config = load('{ libvirt: { domain: web } }')
  t.same(wantedBy(config).machines.get('vm1'), { libvirt: { domain: 'web' } })
  t.equal(config.libvirt.uri, 'qemu:///system')
  for (const bad of ['{}', '{ qmp: /q, libvirt: { domain: web } }', '{ libvirt: {} }', '{ libvirt: { domain: "" } }']) {
    try {
      load(bad)
      t.fail(`${bad} was taken`)
    } catch (error) {
      t.match(error as SnapswitchError, { code: 'CONFIG_INVALID' })
      t.match((error as SnapswitchError).message, /switch\.yaml:4:\d+/)
    }
  }
})
