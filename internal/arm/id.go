package arm

import (
	"fmt"
	"strings"
)

// ID is the address of a resource or a scope, such as
// /subscriptions/S/resourceGroups/G/providers/Microsoft.DataProtection/backupVaults/V, in its creator's letter case.
// The empty ID is the tenant's root. IDs are compared by their Key.
type ID string

// ParseID checks that s has the form of an ID and returns it without a trailing slash. The error is a *Error with
// code LinkedInvalidPropertyId.
func ParseID(s string) (ID, error) {
	trimmed := strings.TrimSuffix(s, "/")
	if trimmed == "" {
		return "", nil
	}
	if reason := fault(trimmed); reason != "" {
		return "", &Error{Status: 400, Code: "LinkedInvalidPropertyId",
			Message: fmt.Sprintf("%q is not a resource ID: %s. Expected /subscriptions/{id}/resourceGroups/{name}/providers/{namespace}/{type}/{name}.", s, reason)}
	}
	return ID(trimmed), nil
}

// fault says what is wrong with the form of an ID, or nothing.
func fault(s string) string {
	if !strings.HasPrefix(s, "/") {
		return "it does not begin with a slash"
	}
	segments := strings.Split(s[1:], "/")
	for _, segment := range segments {
		if segment == "" {
			return "it has an empty segment"
		}
		if strings.ContainsAny(segment, "?#\\%") || strings.ContainsFunc(segment, isControl) {
			return fmt.Sprintf("segment %q has a character that no name may have", segment)
		}
	}
	for i := 0; i < len(segments); {
		if strings.EqualFold(segments[i], "providers") {
			if i+1 == len(segments) {
				return "it ends after \"providers\""
			}
			i += 2
			continue
		}
		if i == 0 && !strings.EqualFold(segments[i], "subscriptions") {
			return fmt.Sprintf("it begins with %q, not with \"subscriptions\" or \"providers\"", segments[i])
		}
		if i+1 == len(segments) {
			return fmt.Sprintf("it ends after the type %q without a name", segments[i])
		}
		i += 2
	}
	return ""
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

// Key is what two spellings of one ID have in common: it in lower case.
func (id ID) Key() string { return strings.ToLower(string(id)) }

// String is the ID as it was written.
func (id ID) String() string { return string(id) }

// Equal says whether both name the same resource.
func (id ID) Equal(other ID) bool { return strings.EqualFold(string(id), string(other)) }

func (id ID) segments() []string {
	if id == "" {
		return nil
	}
	return strings.Split(strings.TrimPrefix(string(id), "/"), "/")
}

// Subscription is the subscription's ID, or empty.
func (id ID) Subscription() string { return id.at(0, "subscriptions") }

// ResourceGroup is the resource group's name, or empty.
func (id ID) ResourceGroup() string { return id.at(2, "resourceGroups") }

func (id ID) at(i int, key string) string {
	s := id.segments()
	if len(s) > i+1 && strings.EqualFold(s[i], key) {
		return s[i+1]
	}
	return ""
}

// SubscriptionID is the ID of the subscription that the resource is in, or the root.
func (id ID) SubscriptionID() ID { return id.head(2, id.Subscription()) }

// ResourceGroupID is the ID of the resource group that the resource is in, or the root.
func (id ID) ResourceGroupID() ID { return id.head(4, id.ResourceGroup()) }

func (id ID) head(n int, name string) ID {
	if name == "" {
		return ""
	}
	return ID("/" + strings.Join(id.segments()[:n], "/"))
}

// Type is the full resource type, in the ID's spelling: "Microsoft.DataProtection/backupVaults/backupInstances",
// "Microsoft.Resources/resourceGroups", "Microsoft.Resources/subscriptions"; a provider's ID has its namespace alone.
func (id ID) Type() string {
	s := id.segments()
	start := -1
	for i := 0; i+1 < len(s); i += 2 {
		if strings.EqualFold(s[i], "providers") {
			start = i
		}
	}
	switch {
	case start >= 0:
		t := s[start+1]
		for i := start + 2; i < len(s); i += 2 {
			t += "/" + s[i]
		}
		return t
	case len(s) >= 4:
		return "Microsoft.Resources/resourceGroups"
	case len(s) >= 2:
		return "Microsoft.Resources/subscriptions"
	}
	return ""
}

// Name is the last segment.
func (id ID) Name() string {
	return string(id[strings.LastIndexByte(string(id), '/')+1:])
}

// Parent is the resource that the resource belongs to: of a vault's instance the vault, of a vault its resource group,
// of an extension on a cluster the cluster, of a subscription the root.
func (id ID) Parent() ID {
	s := id.segments()
	if len(s) < 2 {
		return ""
	}
	s = s[:len(s)-2]
	// What is left may end in ".../providers/Namespace": that is no resource.
	if n := len(s); n >= 2 && strings.EqualFold(s[n-2], "providers") {
		s = s[:n-2]
	}
	if len(s) == 0 {
		return ""
	}
	return ID("/" + strings.Join(s, "/"))
}

// Child is the ID of a resource below this one: vault.Child("backupInstances", "web").
func (id ID) Child(typ, name string) ID { return id + ID("/"+typ+"/"+name) }

// Extension is the ID of another provider's resource on this scope:
// cluster.Extension("Microsoft.KubernetesConfiguration/extensions", "azure-aks-backup").
func (id ID) Extension(typ, name string) ID { return id + ID("/providers/"+typ+"/"+name) }

// Within says whether the resource is the scope or lies below it. Everything lies within the root.
func (id ID) Within(scope ID) bool {
	k, s := id.Key(), scope.Key()
	return k == s || strings.HasPrefix(k, s+"/")
}

// Subscription is the ID of a subscription.
func Subscription(id string) ID { return ID("/subscriptions/" + id) }

// ResourceGroup is the ID of a resource group.
func ResourceGroup(subscription, name string) ID {
	return Subscription(subscription) + ID("/resourceGroups/"+name)
}
